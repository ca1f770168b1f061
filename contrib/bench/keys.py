"""How long a key takes to the guest and its echo back, through each client and without one.

At a keyboard's pace all have gone to sleep between two keys, processors too, and what it
takes to wake them is most of the figure.  In lockstep nothing has, and the figure is what
the clients' own code costs; so fares a script that waits for each echo.
"""

import enum
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from attach import attached
from clients import Client, clients
from processes import fake
from table import Headline, Report, Table, ratio

FEWEST = 3  # samples
WARM_UP = 0.1  # seconds

Exchange = Callable[[], None]


class Pace(enum.Enum):
    """How long after an echo the next key is pressed, in seconds."""

    KEYBOARD = 0.040
    LOCKSTEP = 0.0


SAID = {Pace.KEYBOARD: "25 keys a second", Pace.LOCKSTEP: "in lockstep"}


@contextmanager
def direct() -> Iterator[Exchange]:
    """Over the websocket itself."""
    with fake() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: x\r\n\r\n")
        client.recv(4096)

        def exchange() -> None:
            client.send(b"\x82\x81\0\0\0\0k")
            client.recv(64)

        yield exchange


@contextmanager
def through(client: Client) -> Iterator[Exchange]:
    with (
        fake() as port,
        client.start(f"ws://127.0.0.1:{port}/") as running,
        attached(running.way) as console,
    ):
        console.greet()

        def exchange() -> None:
            console.write(b"k")
            console.read()

        press(exchange, Pace.LOCKSTEP.value, WARM_UP)
        yield exchange


def press(exchange: Exchange, pause: float, seconds: float) -> list[float]:
    """Keys for about so long, each ``pause`` after the last one's echo; microseconds each."""
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while len(samples) < FEWEST or time.perf_counter() < end:
        start = time.perf_counter()
        exchange()
        samples.append((time.perf_counter() - start) * 1e6)
        if pause:
            time.sleep(pause)
    return samples


def percentiles(samples: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    return statistics.median(samples), statistics.quantiles(samples, n=100, method="inclusive")[98]


def run(rounds: int, seconds: float) -> Report:
    samples: dict[Pace, dict[tuple[str, str], list[float]]] = {pace: {} for pace in Pace}
    with ExitStack() as stack:
        exchanges = {("(websocket)", "direct"): stack.enter_context(direct())}
        for client in clients():
            exchanges[client.kind, client.name] = stack.enter_context(through(client))
        for _ in range(rounds):
            for pace, of_pace in samples.items():
                for way, exchange in exchanges.items():
                    of_pace.setdefault(way, []).extend(press(exchange, pace.value, seconds))
    report = Report([])
    for pace, of_pace in samples.items():
        add(report, pace, {way: percentiles(times) for way, times in of_pace.items()}, rounds)
    return report


def add(
    report: Report, pace: Pace, found: dict[tuple[str, str], tuple[float, float]], rounds: int
) -> None:
    table = Table(
        f"Keystroke round trip, {SAID[pace]}",
        f"{rounds} rounds; median and 99th percentile of all keys.",
        ["through", "client", "p50 us", "p99 us", "p50 / websocat's"],
    )
    base = found.get(("raw", "websocat"), (None, None))
    for (kind, name), (p50, p99) in found.items():
        table.rows.append([kind, name, p50, p99, ratio(p50, base[0])])
    report.tables.append(table)
    ours = found["raw", "ttybridge"]
    report.headlines += [
        Headline(f"keystroke {name}, {SAID[pace]}, us", mine, its, ratio(mine, its))
        for name, mine, its in zip(("p50", "p99"), ours, base, strict=True)
    ]
