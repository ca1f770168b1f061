"""ttybridge: the serial consoles of QEMU's virtual machines as PTYs and local ports.

The architecture is the list of modules.  A module imports only from levels below its own
(``tests/test_layers.py`` reads this table and the imports, and compares):

level  modules                        what they are
0      errors printable codec         what can go wrong; text made safe to print; the face of
       handover echo                  what stands between a client and the bytes; what one
                                      process leaves to the next; bytes found again in output
1      url scrollback pacing guard    pure: an address, the ring of past output, the clocking
       telnet replay states manners   of input, the shape of a client's first read, telnet,
       guest dbus unit protocol       what a newcomer is shown and told, the demo's machine,
       access certificate qemuopts    D-Bus messages, the text of the systemd unit, what is
                                      spoken to a server, what it must show, what it shows,
                                      the syntax of QEMU's options
       transcript metrics             a log's lines, figures for Prometheus
2      websocket values qemuargs      pure: RFC 6455 as QEMU speaks it; settings' values; what a
       qmp wsserver                   QEMU's command line says; QEMU's control protocol; RFC
                                      6455 as a server, and who is let in
       logview                        a log fit to be shown
3      sockdiag presence runtime      edges: the kernel's sockets, inotify, the runtime
       dial transport config          directory; connecting; a socket's bytes, and leaving;
       systemd manager succession     the settings; sd_notify, asking
       processes qmpsync token        systemd; exec(2) with all that is open; the QEMUs that
       messages looplag               run; QMP with blocking sockets; a secret; what is said on
                                      stderr; how late the loop is
4      listeners console tls          who listens on this machine; the hub of one console;
       client fdstore reload          TLS on a socket; the control socket's other end;
       qmplink locate vms             descriptors that outlive the process; what a new
       segments credentials           configuration asks for; QMP on trio; which listening
                                      socket is which chardev's; the machines that run; which
                                      files a log has; files of certificates and secrets
5      attach reach supervision       one local session; from a URL to a connection; telling
       discovery command              systemd; the consoles of the machines that run; what
                                      commands share
       consolelog logfile logread     what is logged, the file it goes to, reading it
6      upstream pty endpoints demo    the connection to QEMU, kept; where local programs
       roster listing                 come in; the built-in console; which VMs' consoles are
                                      bridged unasked, which are listed
       logs                           the logs of all consoles
7      bridged vmwatch wsendpoint     one console with all its ways in and out; VMs come and
                                      go; the port where all consoles are websockets
8      service                        all consoles, bound and run
9      status                         what can be told of them
10     control                        the socket where it is asked
11     daemon                         the whole process, from start to end
12     cmd_run cmd_path cmd_status    the subcommands
       cmd_attach cmd_wait cmd_ask
       cmd_check cmd_install
       cmd_discover cmd_log
13     cli                            the command
14     __main__                       ``python -m bridge``

The path of a byte from the guest: upstream reads the socket, websocket strips the frames,
console appends to its scrollback and lets each attachment push to its descriptor.  To the
guest: attachment reads its descriptor into its queue, console asks pacing how much may go,
upstream frames and sends it.
"""

__version__ = "0.1.0"
