# Completion of taptrail for fish: the program itself says what can stand at the cursor.

# Asks it, once for each state of the command line. Each line of the answer is a word, and behind a
# tab its meaning; a line that begins with a tab says what fish completes itself.
function __taptrail_ask
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    if test "$words $current" != "$__taptrail_asked"
        set -g __taptrail_asked "$words $current"
        set -g __taptrail_answer (taptrail complete fish -- $words "$current" 2>/dev/null)
    end
end

function __taptrail_completes
    __taptrail_ask
    contains -- \t$argv $__taptrail_answer
end

function __taptrail_words
    __taptrail_ask
    string match --invert --regex '^\t' -- $__taptrail_answer
    # What was asked is old with the next key.
    set -g __taptrail_asked
end

# What stands before the value of --option=value, and the value.
function __taptrail_directories
    set -l current (commandline --current-token --cut-at-cursor)
    set -l option (string match --regex '^--[a-z-]+=' -- "$current")
    for path in (__fish_complete_directories (string sub --start (math (string length -- "$option") + 1) -- "$current") '')
        echo "$option$path"
    end
end

# QEMU's own command line, behind --.
function __taptrail_command
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l at (contains --index -- -- $words)
    set -e words[1..$at]
    complete --do-complete (string join ' ' -- (string escape -- $words) (commandline --current-token --cut-at-cursor))
end

complete --command taptrail --no-files
complete --command taptrail --condition '__taptrail_completes files' --force-files
complete --command taptrail --condition '__taptrail_completes directories' --arguments '(__taptrail_directories)'
complete --command taptrail --condition '__taptrail_completes users' --arguments '(__fish_complete_users)'
complete --command taptrail --condition '__taptrail_completes command' --arguments '(__taptrail_command)'
complete --command taptrail --keep-order --arguments '(__taptrail_words)'
