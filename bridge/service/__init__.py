"""All consoles together.

metrics   * figures for Prometheus
looplag     how late the loop is
messages    what is said on stderr
guest     * the machine behind the built-in console
demo        the built-in console
process     signals and descriptors
bridged     one console with all its ways in and out
service     all of them
status      what can be told of them
control     the socket where it is asked
daemon      the whole process, from start to end
"""
