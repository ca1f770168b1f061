"""How long a key takes to the guest and its echo back, through each client and without one."""

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from attach import attached
from clients import Client, clients
from processes import fake
from table import Headline, Report, Table, ratio

SAMPLES = 2000

Exchange = Callable[[], None]


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

        yield exchange


def measure(exchange: Exchange) -> tuple[float, float]:
    """Median and 99th percentile of the round trip, in microseconds."""
    for _ in range(100):
        exchange()
    samples = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        exchange()
        samples.append((time.perf_counter() - start) * 1e6)
    return statistics.median(samples), statistics.quantiles(samples, n=100)[98]


def run(rounds: int, _seconds: float) -> Report:
    figures: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        exchanges = {("(websocket)", "direct"): stack.enter_context(direct())}
        for client in clients():
            exchanges[client.kind, client.name] = stack.enter_context(through(client))
        for _ in range(rounds):
            for way, exchange in exchanges.items():
                figures.setdefault(way, []).append(measure(exchange))
    medians = {
        way: tuple(statistics.median(column) for column in zip(*pairs, strict=True))
        for way, pairs in figures.items()
    }
    table = Table(
        "Keystroke round trip",
        f"{rounds} rounds of {SAMPLES}; medians of the rounds' medians and 99th percentiles.",
        ["through", "client", "p50 us", "p99 us", "p50 / websocat's"],
    )
    base = medians.get(("raw", "websocat"), (None, None))
    for (kind, name), (p50, p99) in medians.items():
        table.rows.append([kind, name, p50, p99, ratio(p50, base[0])])
    ours = medians["raw", "ttybridge"]
    lines = [
        Headline(f"keystroke round trip {name}, us", mine, its, ratio(mine, its))
        for name, mine, its in zip(("p50", "p99"), ours, base, strict=True)
    ]
    return Report([table], lines)
