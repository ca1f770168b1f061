"""From one process to the next by exec(2): the pid stays, and every descriptor with it.

The record travels as a file in memory.  One of another format is refused as a whole:
better a plain start than half an understanding.  Whatever is refused, QEMU is left.
"""

import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from bridge.base.errors import StartError
from bridge.base.handover import Bag, Bytes, Record, RecordError
from bridge.kernel import sockdiag

FORMAT = 2

# Where the next process finds the descriptor of the file.
VARIABLE = "TTYBRIDGE_HANDOVER"

# How long QEMU may take to let go of a connection that nobody takes over.  There is no
# hurry, and if it is closed too soon the console is locked.
LEAVE_LIMIT = 3.0


def encode(record: Record, bag: Bag, **more: object) -> tuple[bytes, Bytes]:
    """A record, ``more`` in its head, and behind it the bytes that it refers to.

    A thousand scrollbacks are a gigabyte, which is better not copied.
    """
    head = {"format": FORMAT, "whole": bag.whole, **more, "record": record}
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "big") + text, bag.blobs


def decode(data: bytes, bag: Bag) -> Record:
    """Read what ``encode`` wrote into ``bag``; raises RecordError."""
    try:
        head, blobs = _split(data)
        if head["format"] != FORMAT:
            raise RecordError(f"its format is {head['format']}, ours {FORMAT}")
        bag.whole, bag.blobs = bool(head["whole"]), blobs
        return dict(head["record"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError("it cannot be read") from error


def _split(data: bytes) -> tuple[Record, memoryview]:
    length = int.from_bytes(data[:8], "big")
    return dict(json.loads(data[8 : 8 + length])), memoryview(data)[8 + length :]


def pack(record: Record, bag: Bag) -> int:
    """Write it all to a file in memory; return its descriptor."""
    # These three are the same in every format: to refuse one, what is in it must be left.
    common = {"fds": bag.fds, "upstreams": sorted(bag.upstreams), "kept": bag.kept}
    file = os.memfd_create("ttybridge-handover")
    with open(file, "wb", closefd=False) as stream:
        stream.writelines(encode(record, bag, **common))
    return file


def unpack(file: int, bag: Bag) -> Record:
    """Read what ``pack`` wrote into ``bag``, and close ``file``.

    Raises RecordError; what is in the bag nevertheless is to be left and closed.
    """
    with open(file, "rb") as stream:
        stream.seek(0)
        data = stream.read()
    try:
        head, _ = _split(data)
        bag.fds, bag.upstreams = dict(head["fds"]), set(head["upstreams"])
        bag.kept = dict(head["kept"])
        for fd in {*bag.fds.values(), *bag.kept.values()}:
            os.set_inheritable(fd, False)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise RecordError("it cannot be read") from error
    return decode(data, bag)


def close(bag: Bag) -> None:
    """Close what nobody took; QEMU is left as it must be (``Transport.leave`` says why)."""
    leave(bag.take(name) for name in sorted(bag.upstreams & bag.fds.keys()))
    for fd in bag.fds.values():
        os.close(fd)
    bag.fds.clear()


def leave(
    connections: Iterable[int], end: Callable[[socket.socket], object] = socket.socket.close
) -> None:
    """End our side of each connection, read until QEMU has ended its own, and close it.

    One that is queued is just closed: nobody would answer, and its turn may never come.
    With ``socket.detach`` as ``end`` none is closed: they are another's, who will.
    """
    deadline = time.monotonic() + LEAVE_LIMIT
    poll = select.poll()  # not select(2), which knows no descriptor above 1023
    left: dict[int, socket.socket] = {}
    for connection in map(_socket, connections):
        unheard = sockdiag.accepted(connection) is False
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # gone
            unheard = True
        if unheard:
            end(connection)
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
                end(left.pop(fd))
    for connection in left.values():
        end(connection)


def _socket(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


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
    """Replace this process by a new one of the same command line, which gets it all.

    Raises StartError if that fails, and QEMU is left.
    """
    what = ""
    try:
        file = pack(record, bag)  # there may be no descriptor, or no memory, for it
        for fd in {*bag.fds.values(), *bag.kept.values(), file}:
            os.set_inheritable(fd, True)
        what = f"{sys.executable}: "
        _execute({VARIABLE: str(file)})
    except OSError as error:
        leave((bag.fds[name] for name in bag.upstreams), socket.socket.detach)
        raise StartError(f"not handed over: {what}{error.strerror}") from error


def begin_anew() -> NoReturn:
    """Replace this process by a new one that knows nothing of it; nothing stays open."""
    _execute({})


def _execute(more: Mapping[str, str]) -> NoReturn:
    environment = os.environ | more
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 (no shell is wanted)


def inherit(bag: Bag) -> Record | None:
    """What the process before has left, if it was the same service; None for a plain start.

    Raises RecordError; see ``unpack``.
    """
    file = os.environ.pop(VARIABLE, None)
    if file is None:
        return None
    try:
        return unpack(int(file), bag)
    except (OSError, ValueError) as error:
        raise RecordError("it cannot be read") from error
