"""One console's flood to many at once, some of whom are stuck."""

import os
import select
import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field

from attach import LIMIT, READ, Attached, Flood, alarm, attached
from clients import clients
from processes import cpu_seconds, fake
from table import Report, Table

CASES = ((1, 0), (8, 0), (8, 2), (64, 0), (64, 16))  # attached, and of them stuck
PROBE = 1 << 20


def run(rounds: int, seconds: float) -> Report:
    table = Table(
        "Fan-out",
        f"One-byte frames to raw ports; {rounds} rounds of about {seconds:g} s; medians."
        " Those who are stuck never read; missing is what the others did not get.",
        ["attached", "stuck", "MB/s each", "MB/s all", "MB per CPU second, all", "missing bytes"],
    )
    (ours,) = (client for client in clients() if client.ours and client.kind == "raw")
    for count, stuck in CASES:
        with ExitStack() as stack:
            port = stack.enter_context(fake())
            running = stack.enter_context(ours.start(f"ws://127.0.0.1:{port}/"))
            consoles = [stack.enter_context(attached(running.way)) for _ in range(count)]
            group = Group(running.pid, consoles[stuck:])
            group.calibrate(seconds)
            for _ in range(rounds):
                group.turn()
        each, efficiency = map(statistics.median, (group.speeds, group.efficiencies))
        healthy = count - stuck
        table.rows.append(
            [f"{count}", f"{stuck}", each, each * healthy, efficiency * healthy, f"{group.missing}"]
        )
    return Report([table])


@dataclass
class Group:
    """Those who read, and their figures: MB/s, MB per CPU second, as each of them saw it."""

    pid: int
    consoles: list[Attached]
    count: int = PROBE
    missing: int = 0
    speeds: list[float] = field(default_factory=list)
    efficiencies: list[float] = field(default_factory=list)

    def calibrate(self, seconds: float) -> None:
        self.consoles[0].greet()
        self.count = int(PROBE / self._flood() * seconds)

    def turn(self) -> None:
        before = cpu_seconds(self.pid)
        self.speeds.append(self.count / 1e6 / self._flood())
        self.efficiencies.append(self.count / 1e6 / (cpu_seconds(self.pid) - before))

    def _flood(self) -> float:
        """Seconds from the first byte that anybody got to the last."""
        floods = flood_all(self.consoles, self.count)
        self.missing += sum(self.count - flood.received for flood in floods)
        begin = min(flood.begin for flood in floods)
        return max(flood.begin + flood.seconds for flood in floods) - begin


def flood_all(consoles: list[Attached], count: int) -> list[Flood]:
    """Let the guest print ``count`` bytes; read until all have seen the end of it.

    What they see before is other echoes.
    """
    command = b"flood 1 %d\r" % count
    consoles[0].write(command)
    poll = select.epoll()
    for console in consoles:
        poll.register(console.fd, select.EPOLLIN)
    heads = {console.fd: b"" for console in consoles}
    floods: dict[int, Flood] = {}
    with alarm(LIMIT), poll:
        while not (len(floods) == len(consoles) and all(f.ended for f in floods.values())):
            for fd, _ in poll.poll():
                data = os.read(fd, READ)
                if fd in floods:
                    floods[fd].receive(data)
                    continue
                heads[fd] += data
                _, echoed, rest = heads[fd].partition(command)
                if echoed and rest:
                    floods[fd] = Flood(rest)
    return list(floods.values())
