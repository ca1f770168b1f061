"""Programs under test: started and ended, their processor time and memory."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

T = TypeVar("T")

HERE = Path(__file__).parent
LIMIT = 30.0


@contextmanager
def process(
    *command: str | Path, messages: BinaryIO | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ``command`` for the context; what it says on stderr goes to ``messages``."""
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=messages or subprocess.DEVNULL,
    ) as running:
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(5)
            except subprocess.TimeoutExpired:
                running.kill()


@contextmanager
def fakes(count: int = 1) -> Iterator[list[int]]:
    """The ports of ``count`` fake VMs in one process of their own."""
    with process(sys.executable, HERE / "fake.py", str(count)) as server:
        yield [int(line(server)) for _ in range(count)]


@contextmanager
def fake() -> Iterator[int]:
    with fakes() as (port,):
        yield port


def line(running: "subprocess.Popen[bytes]") -> bytes:
    """The next line of its output."""
    assert running.stdout is not None
    text: bytes = running.stdout.readline()
    if not text:
        raise RuntimeError(f"{running.args!r} has ended with {running.wait()}")
    return text


def eventually(look: Callable[[], T | None], limit: float = LIMIT) -> T:
    """Look until there is something true to see."""
    deadline = time.monotonic() + limit
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit:g} s: {look}")
        time.sleep(0.02)
    return seen


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its living descendants, by their own clocks.

    clock_getcpuclockid(3) has no name in Python; the number is the kernel's (posix-timers.h).
    """
    return sum(time.clock_gettime(~member << 3 | 2) for member in family(pid))


def wakeups(pid: int) -> int:
    """How often it has slept and been woken; its descendants, too."""
    return sum(
        int(
            Path(f"/proc/{member}/status")
            .read_text()
            .partition("\nvoluntary_ctxt_switches:")[2]
            .split()[0]
        )
        for member in family(pid)
    )


def resident_mib(pid: int) -> float:
    pages = sum(int(Path(f"/proc/{member}/statm").read_text().split()[1]) for member in family(pid))
    return pages * resource.getpagesize() / (1 << 20)


def family(pid: int) -> list[int]:
    members = [pid]
    for member in members:  # grows while it is walked
        for thread in os.listdir(f"/proc/{member}/task"):
            children = Path(f"/proc/{member}/task/{thread}/children").read_text()
            members += map(int, children.split())
    return members
