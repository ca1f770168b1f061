# ttybridge in fish, by ttybridge itself.  In ~/.config/fish/config.fish:
# ttybridge completion fish | source
function __ttybridge_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l said ($program complete -- $words "$(commandline -ct)" 2>/dev/null)
    if test $status -eq 3 # a file's name
        __fish_complete_path (commandline -ct)
    else
        string join -- \n $said
    end
end
complete -c ttybridge -f -a '(__ttybridge_complete)'
