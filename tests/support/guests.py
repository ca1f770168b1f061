"""Guests for the built-in server that behave as the boot sectors do."""

import hashlib
import random
from collections.abc import Iterator

from bridge.service.guest import Shell

MIB = 1 << 20


class Echo:
    """Returns each byte."""

    def boot(self) -> Iterator[bytes]:
        return iter(())

    def receive(self, data: bytes) -> Iterator[bytes]:
        yield data


class Flood:
    """Prints a counter for ever; never reads."""

    def boot(self) -> Iterator[bytes]:
        number = 0
        while True:
            yield b"%08X\n" % number
            number += 1

    def receive(self, data: bytes) -> Iterator[bytes]:
        return iter(())


class Deaf:
    """Never prints, never reads."""

    def boot(self) -> Iterator[bytes]:
        return iter(())

    def receive(self, data: bytes) -> Iterator[bytes]:
        return iter(())


class Noise(Deaf):
    """Prints one mebibyte of all byte values, the same each time, when typed at."""

    def receive(self, data: bytes) -> Iterator[bytes]:
        yield random.Random(0).randbytes(MIB)


class Digest(Deaf):
    """Reads one mebibyte, then prints its SHA-256 in hexadecimal."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._count = 0

    def receive(self, data: bytes) -> Iterator[bytes]:
        self._sum.update(data)
        self._count += len(data)
        if self._count >= MIB:
            yield self._sum.hexdigest().encode()


class Hex(Deaf):
    """Prints what it gets in hexadecimal: ``<0d>``."""

    def receive(self, data: bytes) -> Iterator[bytes]:
        for byte in data:
            yield b"<%02x>" % byte


GUESTS: dict[str, type[Echo | Flood | Deaf | Shell]] = {
    "echo": Echo,
    "echofifo": Echo,
    "flood": Flood,
    "deaf": Deaf,
    "noise": Noise,
    "digest": Digest,
    "hex": Hex,
    "shell": Shell,
}
