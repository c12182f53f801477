# Completion of taptrail for fish: the program itself says what can stand at the cursor.

function __taptrail_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    # Each line is a word, and behind a tab its meaning; a line that begins with a tab says what fish
    # completes itself.
    for line in (taptrail complete fish -- $words "$current" 2>/dev/null)
        switch $line
            case \tfiles \tdirectories
                set -l option (string match --regex '^--[a-z-]+=' -- "$current")
                set -l path (string replace -- "$option" '' "$current")
                if test $line = \tfiles
                    set -f found (__fish_complete_path "$path")
                else
                    set -f found (__fish_complete_directories "$path" '')
                end
                for path in $found
                    echo "$option$path"
                end
            case \tusers
                __fish_complete_users
            case \tcommand
                set -l at (contains --index -- -- $words)
                set -e words[1..$at]
                complete --do-complete (string join ' ' -- (string escape -- $words) "$current")
            case '*'
                echo $line
        end
    end
end

complete --command taptrail --no-files --keep-order --arguments '(__taptrail_complete)'
