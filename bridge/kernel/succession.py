"""From one process to the next by exec(2): the pid stays, and every descriptor with it.

The record travels as a file in memory.  One of another format is refused as a whole:
better a plain start than half an understanding.
"""

import json
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Iterable
from typing import NoReturn

from bridge.base.handover import Bag, Record, RecordError

FORMAT = 1

# Where the next process finds the descriptor of the file.
VARIABLE = "TTYBRIDGE_HANDOVER"

# How long QEMU may take to let go of a connection that nobody takes over.
LEAVE_LIMIT = 0.7

log = logging.getLogger("ttybridge")


def pack(record: Record, bag: Bag) -> int:
    """Write it all to a file in memory; return its descriptor."""
    head = {
        "format": FORMAT,
        # These two are the same in every format: to refuse one, what is in it must be left.
        "fds": bag.fds,
        "upstreams": sorted(bag.upstreams),
        "record": record,
    }
    text = json.dumps(head).encode()
    file = os.memfd_create("ttybridge-handover")
    with open(file, "wb", closefd=False) as stream:
        stream.write(len(text).to_bytes(8, "big") + text + bag.blobs)
    return file


def unpack(file: int) -> tuple[Record, Bag]:
    """Read what ``pack`` wrote, and close ``file``.

    Raises RecordError, with the descriptors in the file left and closed.
    """
    with open(file, "rb") as stream:
        stream.seek(0)
        data = stream.read()
    bag = Bag()
    try:
        length = int.from_bytes(data[:8], "big")
        head = json.loads(data[8 : 8 + length])
        bag.fds, bag.upstreams = dict(head["fds"]), set(head["upstreams"])
        bag.blobs = bytearray(data[8 + length :])
        if head["format"] != FORMAT:
            raise RecordError(f"its format is {head['format']}, ours {FORMAT}")
        for fd in bag.fds.values():
            os.set_inheritable(fd, False)
        return dict(head["record"]), bag
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError("it cannot be read") from error
    except RecordError:
        close(bag)
        raise


def close(bag: Bag) -> None:
    """Close what nobody took; QEMU is left as it must be (``Transport.leave`` says why)."""
    connections = [socket.socket(fileno=bag.take(n)) for n in bag.upstreams & bag.fds.keys()]
    for fd in bag.fds.values():
        os.close(fd)
    bag.fds.clear()
    _leave_all(connections)


def obstacle() -> str:
    """Why there can be no next process, as far as can be seen; empty if nothing is in its way.

    An update may have taken away what this process was started from.
    """
    program, *words = [sys.executable, *sys.orig_argv[1:]]
    if not os.access(program, os.X_OK):
        return f"{program} cannot be executed"
    # With a script it is the first word; an option, as -m, is looked up by Python.
    if words and not words[0].startswith("-") and not os.access(words[0], os.R_OK):
        return f"{words[0]} cannot be read"
    return ""


def become(record: Record, bag: Bag) -> NoReturn:
    """Replace this process by a new one of the same command line, which gets it all."""
    file = pack(record, bag)
    for fd in [*bag.fds.values(), file]:
        os.set_inheritable(fd, True)
    environment = os.environ | {VARIABLE: str(file)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 (no shell is wanted)


def inherit() -> tuple[Record, Bag] | None:
    """What the process before has left, if it was the same service; None for a plain start."""
    file = os.environ.pop(VARIABLE, None)
    if file is None:
        return None
    try:
        return unpack(int(file))
    except (RecordError, OSError, ValueError) as error:
        log.warning("what the service before has left is not used: %s", error)
        return None


def _leave_all(connections: Iterable[socket.socket]) -> None:
    """End our side of each, and read until QEMU has ended its own."""
    deadline = time.monotonic() + LEAVE_LIMIT
    poll = select.poll()  # not select(2), which knows no descriptor above 1023
    left: dict[int, socket.socket] = {}
    for connection in connections:
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # gone
            connection.close()
            continue
        left[connection.fileno()] = connection
        poll.register(connection, select.POLLIN)
    while left and (wait := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(wait * 1000):
            try:
                gone = not left[fd].recv(1 << 16)
            except OSError:
                gone = True
            if gone:
                poll.unregister(fd)
                left.pop(fd).close()
    for connection in left.values():
        connection.close()
