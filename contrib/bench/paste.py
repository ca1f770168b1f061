"""How much of a paste arrives in real guests: through ttybridge, and through websocat.

A guest is booted anew for each.  What arrived is what the guest itself counts, where it
can, else what it returns; ``exact`` compares checksums, or every byte.
"""

import hashlib
import random
import re
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from attach import Attached, attached
from clients import Running, ours, websocat
from table import Cell, Headline, Report, Table
from vm import PROMPT, machine_room, missing, read_until, type_slowly

QUIET = 2.0  # seconds without output after which no more is coming

Paste = tuple[int, bool, float]  # bytes arrived; exactly what was sent; seconds


def text(size: int) -> bytes:
    """Lines of all printable characters, ended by CR."""
    generator = random.Random(size)  # noqa: S311 (the same each time)
    characters = bytes(range(0x21, 0x7F))
    lines: list[bytes] = []
    while sum(map(len, lines)) < size:
        lines.append(bytes(generator.choices(characters, k=generator.randrange(1, 80))) + b"\r")
    return b"".join(lines)[: size - 1] + b"\r"


def into_linux(console: Attached, size: int, *, echo: bool = True) -> Paste:
    """Into ``cat > file``; the guest sums the file up."""
    read_until(console, PROMPT)
    console.drain()
    type_slowly(console, b"cat > /tmp/p\r" if echo else b"stty -echo; cat > /tmp/p; stty echo\r")
    data, begin = text(size), time.monotonic()
    console.write(data)
    if echo:
        console.drain(QUIET)
        seconds = time.monotonic() - begin - QUIET
    else:
        seconds = size / 500  # longer than it can take by the clock; nothing shows the end
        time.sleep(seconds)
    for key in (b"\r", b"\x04"):
        time.sleep(0.5)
        console.write(key)
    read_until(console, PROMPT)
    console.drain()
    type_slowly(console, b"wc -c < /tmp/p; md5sum < /tmp/p\r")
    said = read_until(console, PROMPT)
    found = re.search(rb"(\d+)\s+([0-9a-f]{32})", said)
    assert found is not None, said
    expected = hashlib.md5(data.replace(b"\r", b"\n") + b"\n").hexdigest()  # noqa: S324
    return int(found[1]) - 1, found[2].decode() == expected, seconds


def into_sector(console: Attached, size: int) -> Paste:
    """Into a program without FIFO, which returns each byte that it gets."""
    while True:
        console.write(b"?")
        if console.drain(0.3):
            break
    data, begin = text(size), time.monotonic()
    console.write(data)
    returned = console.drain(QUIET)
    return len(returned), returned == data, time.monotonic() - begin - QUIET


def into_ipxe(console: Attached, size: int) -> Paste:
    """Into the prompt of a network card's firmware, as the argument of its ``echo``."""
    read_until(console, b"iPXE command line")
    console.write(b"\x02")
    read_until(console, b"iPXE>")
    console.drain()
    word = bytes(random.Random(size).choices(b"abcdefghijklmnop", k=size))  # noqa: S311
    begin = time.monotonic()
    console.write(b"echo " + word)
    console.drain(QUIET)
    seconds = time.monotonic() - begin - QUIET
    console.write(b"\r")
    # The firmware's text console breaks lines and moves the cursor.
    said = read_until(console, b"iPXE>").removesuffix(b"iPXE>")
    arrived = re.sub(rb"\x1b\[[0-9;]*[A-Za-z]|[^a-p]", b"", said)
    return len(arrived), arrived == word, seconds


@dataclass(frozen=True)
class Case:
    name: str
    size: int
    paste: Callable[[Attached, int], Paste]
    guest: str = "linux"
    virtio: bool = False


CASES = (
    Case("Linux", 1400, into_linux),
    Case("Linux", 65536, into_linux),
    Case("Linux, echo off", 4096, partial(into_linux, echo=False)),
    Case("boot sector, no FIFO", 1400, into_sector, "echo"),
    Case("iPXE's prompt", 200, into_ipxe, "ipxe"),
    Case("Linux, virtio console, input = direct", 65536, into_linux, virtio=True),
)


def run(_rounds: int, _seconds: float) -> Report:
    table = Table(
        "Paste into QEMU's guests",
        "Once each, to a raw port.",
        ["guest", "bytes pasted", "client", "arrived", "exact", "seconds"],
    )
    report = Report([table])
    if lacking := missing():
        table.note = f"Not taken: {lacking} is not installed."
        return report
    with machine_room() as start:
        for case in CASES:
            results: list[Paste | None] = []
            for name, client in clients_for(case).items():
                result = paste(start, case, client)
                results.append(result)
                row: list[Cell] = [case.name, f"{case.size}", name]
                table.rows.append([*row, f"{result[0]}", "yes" if result[1] else "no", result[2]])
            figures: list[Cell] = [f"{one[0]}" if one else None for one in [*results, None]]
            report.headlines.append(
                Headline(f"{case.name}: arrived of {case.size}", figures[0], figures[1])
            )
    return report


def clients_for(case: Case) -> dict[str, Callable[[str], AbstractContextManager[Running]]]:
    more = 'input = "direct"' if case.virtio else ""
    chosen: dict[str, Callable[[str], AbstractContextManager[Running]]] = {
        "ttybridge": partial(ours, "raw", more=more)
    }
    if shutil.which("websocat"):
        chosen["websocat"] = websocat
    return chosen


def paste(
    start: Callable[..., Any],
    case: Case,
    client: Callable[[str], AbstractContextManager[Running]],
) -> Paste:
    with (
        start(case.guest, virtio=case.virtio) as vm,
        client(vm.url) as running,
        attached(running.way) as console,
    ):
        return case.paste(console, case.size)
