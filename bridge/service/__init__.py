"""All consoles together.

metrics      * figures for Prometheus
looplag        how late the loop is
outlet         where what is said leaves the process, without waiting
saying         how messages get there
messages       what is said on stderr
guest        * the machine behind the built-in console
demo           the built-in console
process        signals and descriptors
monitors       QMP sockets, visited shortly
surroundings   what can be seen of machines
machine        the machine behind a console
rescuing       a locked console freed
parts          the ways in and out of one console: what is asked for, how it is made
bridged        one console with all its parts
running        a console in the service
service        all consoles
opening        the service made, with everything bound
status         what can be told of them
heritage       what another process has left, and who keeps it
control        the socket where it is asked
announcement   what is said on stdout when all is bound
daemon         the whole process, from start to end
"""
