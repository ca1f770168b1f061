# ttybridge in bash, by ttybridge itself.  In ~/.bashrc: eval "$(ttybridge completion bash)"
_ttybridge() {
    local said
    COMPREPLY=()
    said=$("${COMP_WORDS[0]/#\~/$HOME}" complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    case $? in
    0) if [ -n "$said" ]; then mapfile -t COMPREPLY <<<"$said"; fi ;;
    3) compopt -o default ;; # a file's name
    esac
    COMPREPLY=("${COMPREPLY[@]%%$'\t'*}") # without what it means
}
complete -F _ttybridge ttybridge
