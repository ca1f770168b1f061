"""ttybridge: the serial consoles of QEMU's virtual machines as PTYs and local ports.

The architecture is the list of packages.  Each package's docstring lists its modules.  A
module imports only from packages above its own, and in its own from modules above itself;
one that is marked with a star does no I/O and knows no clock.  ``tests/test_layers.py``
reads these lists and the imports, and compares.

base        what can go wrong, text made safe to print, what one process leaves to the next
console     the hub of one console: its past output, its state, its input, who is attached
settings    addresses and keys, from a file or the command line to records
kernel      what Linux tells: sockets, inotify, the runtime directory, exec(2)
upstream    the one connection to a console's server: made, kept, left with manners
endpoints   where local programs come in: PTY, raw, telnet, Unix socket, websocket
logs        a console's output as a file that one can grep
vms         which QEMUs run, what they offer, what they say
doctor      what a guest is doing, and what would help it to speak
systemd     ready, alive, reloading; descriptors that outlive the process; the unit
service     all consoles together, what can be asked of them, and the whole process
commands    what stands behind each subcommand
cli         the command
api         the same for programs, with trio
__main__    ``python -m bridge``

The path of a byte from the guest: upstream.upstream reads the socket, upstream.websocket
strips the frames, console.console appends to its scrollback and lets each
console.attach push to its descriptor.  To the guest: attach reads its descriptor into its
queue, console asks console.pacing how much may go, upstream frames and sends it.
"""

__version__ = "0.1.0"
