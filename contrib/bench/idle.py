"""What consoles cost at which nothing happens: processor, memory, and the time to start."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clients import ttybridge
from processes import cpu_seconds, fakes, resident_mib
from table import Headline, Report, Table

COUNTS = (1, 100, 1000)
SECONDS = 10
# Seconds until a state's cost is what it stays: who waits tries again after up to 15 s.
SETTLE = {"online": 3, "waiting": 32}


@contextmanager
def absent(count: int) -> Iterator[list[int]]:
    """Ports at which nobody listens, and nobody will: bound, so that no other program can."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def run(_rounds: int, _seconds: float) -> Report:
    table = Table(
        "Idle",
        f"Nobody attached; processor time over {SECONDS} s, when all has settled."
        " Bound: from the start of the process until all ports and PTYs are announced."
        " The time until all are online includes what the one fake process needs for them.",
        ["consoles", "state", "bound after s", "online after s", "% of a core", "MiB resident"],
    )
    for count in COUNTS:
        for state in ("online", "waiting"):
            table.rows.append([f"{count}", state, *measure(count, state)])
    most = COUNTS[-1]
    (_, _, bound, _, online, resident), (_, _, _, _, waiting, _) = table.rows[-2:]
    return Report(
        [table],
        [
            Headline(f"{most} idle consoles, all bound after s", bound, None),
            Headline(f"{most} idle consoles online, % of a core", online, None),
            Headline(f"{most} idle consoles waiting, % of a core", waiting, None),
            Headline(f"{most} idle consoles, MiB resident", resident, None),
        ],
    )


def measure(count: int, state: str) -> tuple[float, float | None, float, float]:
    with (fakes if state == "online" else absent)(count) as ports:
        begin = time.monotonic()
        with ttybridge(*(f"ws://127.0.0.1:{port}" for port in ports)) as service:
            bound, online = time.monotonic() - begin, None
            if state == "online":
                service.wait_online()
                online = time.monotonic() - begin
            time.sleep(SETTLE[state])
            before = cpu_seconds(service.pid)
            time.sleep(SECONDS)
            share = (cpu_seconds(service.pid) - before) / SECONDS
            return bound, online, 100 * share, resident_mib(service.pid)
