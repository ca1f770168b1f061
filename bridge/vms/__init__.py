"""Which QEMUs run, and what they offer.

qemuopts   * the syntax of QEMU's options
qemuargs   * what a command line says
qmp        * QEMU's control protocol
which      * which chardev is a console's
rescue     * the rescue of a locked console
qmplink      QMP on trio
qmpsync      QMP with blocking sockets
processes    the processes that we may see
locate       which listening socket is which chardev's
vms          the machines that run
discovery    their consoles
neighbours   what this machine shows of a console
roster     * which of them are bridged unasked
listing      which are listed
watch        VMs come and go
"""
