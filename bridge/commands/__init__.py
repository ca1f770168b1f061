"""One module a subcommand, or a family of them.  The client ones import nothing heavy.

client      the control socket's other end
common      what they share
run         the service in the foreground; demo
path        the link
status      a table
attach      a console in this terminal
wait        until something is printed
ask         send, break, add, remove, reload
check       is a file good?
install     the unit
discover    which VMs there are
doctor      who is at the other end
log         what a console has printed
complete    what Tab gives
"""
