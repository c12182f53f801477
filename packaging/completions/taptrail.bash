# Completion of taptrail for bash: the program itself says what can stand at the cursor.

_taptrail() {
    local word kind
    COMPREPLY=()
    while IFS= read -r word; do
        case $word in
        $'\t'*) kind=${word#$'\t'} ;;
        *) COMPREPLY+=("$word") ;;
        esac
    done < <(taptrail complete bash --breaks "$COMP_WORDBREAKS" -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    case $kind in
    files) compopt -o default ;;
    directories) compopt -o dirnames ;;
    users) COMPREPLY=($(compgen -u -- "$2")) ;;
    command)
        # QEMU's own command line, behind the last word that is taptrail's.
        local at
        for ((at = 1; at < COMP_CWORD; at++)); do
            [[ ${COMP_WORDS[at]} == -- ]] && break
        done
        if ((at + 1 == COMP_CWORD)); then
            compopt -o default
            COMPREPLY=($(compgen -c -- "$2"))
        elif declare -F _command_offset >/dev/null; then
            _command_offset $((at + 1))
        else
            compopt -o default
        fi
        ;;
    esac
    # More follows behind a key and in a list.
    if ((${#COMPREPLY[@]} == 1)) && [[ ${COMPREPLY[0]} == *[=,/:] ]]; then
        compopt -o nospace
    fi
}
complete -F _taptrail taptrail
