"""Real VMs, as the tests have them: QEMU as an ordinary user, boot sectors and a small Linux."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attach import Attached
from processes import LIMIT

from tests.support.qemu import Qemu
from tests.support.user import REPOSITORY, User, make_base

PROMPT = b"guest# "


@contextmanager
def machine_room() -> Iterator[Callable[..., "Qemu"]]:
    """A function that starts a VM with a guest of that name."""
    base = make_base()
    try:
        user = User("games", base)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttybridge"
        subprocess.run([REPOSITORY / "contrib" / "guest" / "linux", cache / "guest"], check=True)
        shutil.copytree(cache / "guest", base / "guest")
        numbers = iter(range(1000))

        def start(guest: str, *, virtio: bool = False) -> Qemu:
            place = base / f"vm{next(numbers)}"
            place.mkdir()
            user.own(place)
            linux = base / "guest" if guest == "linux" else None
            return Qemu(user, place, guest, linux=linux, virtio=virtio)

        yield start
    finally:
        shutil.rmtree(base, ignore_errors=True)


def missing() -> str:
    """What these parts need and this machine does not have."""
    return "" if shutil.which("qemu-system-x86_64") else "qemu-system-x86_64"


def read_until(console: Attached, wanted: bytes, limit: float = LIMIT) -> bytes:
    """What comes, up to ``wanted``; TimeoutError when nothing comes for so long."""
    seen = b""
    while wanted not in seen:
        seen += console.read(limit)
    return seen


def type_slowly(console: Attached, text: bytes) -> None:
    """Each key after the echo of the one before it: as a person who is never lost on."""
    for key in text:
        console.write(bytes([key]))
        console.read(LIMIT)
        console.drain(0.005)
