"""What the tests drive: an ordinary user, the service, QEMU, terminals.  No tests here."""
