#compdef ttybridge
# ttybridge in zsh, by ttybridge itself.  In ~/.zshrc, after compinit:
# eval "$(ttybridge completion zsh)"
_ttybridge() {
    local said
    local -a lines
    said=$("${~${(Q)words[1]}}" complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    if (( $? == 3 )); then # a file's name
        _files
        return
    fi
    lines=("${(@f)said}")
    lines=("${(@)lines//:/\\:}")
    lines=("${(@)lines/$'\t'/:}")
    _describe -t ttybridge ttybridge lines
}
if [[ ${funcstack[1]-} == _ttybridge ]]; then
    _ttybridge "$@"
else
    compdef _ttybridge ttybridge
fi
