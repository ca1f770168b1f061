"""What consoles cost at which nothing happens: processor, memory, and the time to start."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clients import ttybridge
from processes import cpu_seconds, fakes, resident_mib
from table import Headline, Report, Table


@dataclass(frozen=True)
class Case:
    """Seconds until a state's cost is what it stays, and over which it is measured."""

    state: str
    counts: tuple[int, ...]
    settle: float
    seconds: float


# Who waits tries again after 0.25 s, doubling, up to a minute: a minute has one try of each.
CASES = (Case("online", (1, 100, 1000), 3, 10), Case("waiting", (100, 1000), 64, 60))


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
        "Nobody attached; processor time when all has settled, over 10 s online and 60 s waiting."
        " Bound: from the start of the process until all ports and PTYs are announced."
        " The time until all are online includes what the one fake process needs for them.",
        ["consoles", "state", "bound after s", "online after s", "% of a core", "MiB resident"],
    )
    for case in CASES:
        table.rows += ([f"{n}", case.state, *measure(n, case)] for n in case.counts)
    found = {(row[0], row[1]): row[2:] for row in table.rows}
    most = CASES[0].counts[-1]
    bound, _, online, resident = found[f"{most}", "online"]
    waiting = found[f"{most}", "waiting"][2]
    return Report(
        [table],
        [
            Headline(f"{most} idle consoles, all bound after s", bound, None),
            Headline(f"{most} idle consoles online, % of a core", online, None),
            Headline(f"{most} idle consoles waiting, % of a core", waiting, None),
            Headline(f"{most} idle consoles, MiB resident", resident, None),
        ],
    )


def measure(count: int, case: Case) -> tuple[float, float | None, float, float]:
    with (fakes if case.state == "online" else absent)(count) as ports:
        begin = time.monotonic()
        with ttybridge(*(f"ws://127.0.0.1:{port}" for port in ports)) as service:
            bound, online = time.monotonic() - begin, None
            if case.state == "online":
                service.wait_online()
                online = time.monotonic() - begin
            time.sleep(case.settle)
            before = cpu_seconds(service.pid)
            time.sleep(case.seconds)
            share = (cpu_seconds(service.pid) - before) / case.seconds
            return bound, online, 100 * share, resident_mib(service.pid)
