"""How much output gets through: MB/s, and MB per second of processor time.

The fake VM sends a known pattern in frames of one size; the receiver compares every byte.
Each client has a fake of its own; they take turns, each with as many bytes as take it
about a second.
"""

import statistics
from contextlib import ExitStack
from dataclasses import dataclass, field

from attach import Attached, attached
from clients import BARE_PTY, Client, Running, clients
from processes import cpu_seconds, fake
from table import Cell, Headline, Report, Table, ratio

SIZES = (1, 16, 4096)
PROBE = 16 * 1024


@dataclass
class Runner:
    """A started client and its figures for one size of frames."""

    client: Client
    running: Running
    console: Attached
    count: int = PROBE
    missing: int = 0
    speeds: list[float] = field(default_factory=list)
    efficiencies: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float]:
        """MB/s, MB per second of processor time."""
        return statistics.median(self.speeds), statistics.median(self.efficiencies)

    def turn(self, size: int) -> None:
        before = cpu_seconds(self.running.pid)
        try:
            flood = self.console.flood(size, self.count)
        except TimeoutError:
            raise TimeoutError(f"{self.client.name} ({self.client.kind}): no end came") from None
        self.missing += flood.missing
        self.speeds.append(flood.received / 1e6 / flood.seconds)
        self.efficiencies.append(self.count / 1e6 / (cpu_seconds(self.running.pid) - before))

    def calibrate(self, size: int, seconds: float) -> None:
        """Find how many bytes take about ``seconds``."""
        self.count = PROBE
        while (took := self.console.flood(size, self.count).seconds) < 0.15:
            self.count *= 4
        self.count = max(PROBE, int(self.count / took * seconds))


def run(rounds: int, seconds: float) -> Report:
    table = Table(
        "Output",
        f"{rounds} rounds of about {seconds:g} s; medians. Every byte was compared.",
        [
            "frames of",
            "to",
            "client",
            "MB/s",
            "ratio",
            "MB per CPU second",
            "ratio",
            "missing bytes",
        ],
    )
    report = Report([table])
    for size in SIZES:
        with ExitStack() as stack:
            runners = [start(stack, client) for client in (*clients(), BARE_PTY)]
            for runner in runners:
                runner.calibrate(size, seconds)
            for _ in range(rounds):
                for runner in runners:
                    runner.turn(size)
        for kind in ("raw", "telnet", "pty"):
            add_rows(table, size, [runner for runner in runners if runner.client.kind == kind])
        report.headlines += headlines(size, runners)
    return report


def start(stack: ExitStack, client: Client) -> Runner:
    port = stack.enter_context(fake())
    running = stack.enter_context(client.start(f"ws://127.0.0.1:{port}/"))
    console = stack.enter_context(attached(running.way))
    console.greet()
    return Runner(client, running, console)


def add_rows(table: Table, size: int, runners: list[Runner]) -> None:
    """One kind's rows; a ratio says how many times a peer's figure ours is."""
    ours = next((r.medians for r in runners if r.client.ours), None)
    for runner in runners:
        speed, efficiency = runner.medians
        row: list[Cell] = [f"{size}", runner.client.kind, runner.client.name, speed, None]
        row += [efficiency, None, f"{runner.missing}"]
        if ours is not None and not runner.client.ours:
            row[4], row[6] = ratio(ours[0], speed), ratio(ours[1], efficiency)
        table.rows.append(row)


def headlines(size: int, runners: list[Runner]) -> list[Headline]:
    lines = []
    for kind in ("raw", "telnet", "pty"):
        by_name = {
            runner.client.name: runner.medians[0]
            for runner in runners
            if runner.client.kind == kind
        }
        ours = by_name.get("ttybridge")
        peer = by_name.get("websocat", by_name.get("socat + websocat"))
        if ours is not None:
            plural = "frames of 1 byte" if size == 1 else f"frames of {size} bytes"
            lines.append(Headline(f"{plural} to {kind}, MB/s", ours, peer, ratio(ours, peer)))
    return lines
