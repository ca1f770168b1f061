"""ttybridge beside its peers, in one run.

    contrib/bench/run [--rounds N]

keystroke   one byte through a raw port to an echoing guest and back: directly over the
            websocket, through websocat, through ttybridge.  The three take turns, round
            after round; what is shown is the median of the rounds' medians and 99th
            percentiles.
idle        50 consoles online and nobody attached: processor and memory of one service.
"""

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).parent
SAMPLES = 2000
IDLE_SECONDS = 20
CONSOLES = 50

Exchange = Callable[[], None]


@contextmanager
def process(*command: str) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        try:
            yield running
        finally:
            running.terminate()


@contextmanager
def console() -> Iterator[int]:
    with process(sys.executable, str(HERE / "echo_server.py")) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())


@contextmanager
def bridge(*urls: str) -> "Iterator[tuple[subprocess.Popen[str], list[dict[str, str]]]]":
    with (
        tempfile.TemporaryDirectory() as directory,
        process("ttybridge", "run", *urls, "--json", "--runtime-dir", directory) as running,
    ):
        assert running.stdout is not None
        yield running, [json.loads(running.stdout.readline()) for _ in urls]


def dial(port: int) -> socket.socket:
    """Connect, however long the peer takes to listen."""
    deadline = time.monotonic() + 10
    while True:
        try:
            client = socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client


def key_through(client: socket.socket) -> Exchange:
    def exchange() -> None:
        client.send(b"k")
        client.recv(64)

    return exchange


@contextmanager
def direct() -> Iterator[Exchange]:
    with console() as port, dial(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: x\r\n\r\n")
        client.recv(4096)

        def exchange() -> None:
            client.send(b"\x82\x81\0\0\0\0k")
            client.recv(64)

        yield exchange


@contextmanager
def through_websocat() -> Iterator[Exchange]:
    with console() as port, socket.create_server(("127.0.0.1", 0)) as probe:
        own = probe.getsockname()[1]
        probe.close()
        url = f"ws://127.0.0.1:{port}/"
        listen = f"tcp-l:127.0.0.1:{own}"
        with (
            process("websocat", "-b", "-E", "--protocol", "binary", listen, url),
            dial(own) as client,
        ):
            yield key_through(client)


@contextmanager
def through_ttybridge() -> Iterator[Exchange]:
    with console() as port, bridge(f"vm=ws://127.0.0.1:{port}") as (_, (place,)):
        with dial(int(place["raw"].rpartition(":")[2])) as client:
            client.settimeout(0.1)
            exchange = key_through(client)
            while True:  # until it is online; what is typed before is discarded
                try:
                    exchange()
                except TimeoutError:
                    continue
                break
            client.settimeout(10)
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


def keystrokes(rounds: int) -> None:
    ways = {"direct": direct, "websocat": through_websocat, "ttybridge": through_ttybridge}
    if shutil.which("websocat") is None:
        del ways["websocat"]
    figures: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with ExitStack() as stack:
        exchanges = {way: stack.enter_context(start()) for way, start in ways.items()}
        for _ in range(rounds):
            for way, exchange in exchanges.items():
                figures[way].append(measure(exchange))
    print(f"keystroke round trip, {rounds} rounds of {SAMPLES}")
    print(f"{'':12}{'p50 us':>10}{'p99 us':>10}{'p50 / websocat':>16}")
    base = statistics.median(p50 for p50, _ in figures.get("websocat", [(float("nan"), 0)]))
    for way, pairs in figures.items():
        p50, p99 = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{way:12}{p50:10.0f}{p99:10.0f}{p50 / base:16.2f}")


def idle() -> None:
    with ExitStack() as stack:
        ports = [stack.enter_context(console()) for _ in range(CONSOLES)]
        urls = [f"vm{n}=ws://127.0.0.1:{port}" for n, port in enumerate(ports)]
        running, _ = stack.enter_context(bridge(*urls))
        time.sleep(3)  # all online
        before = cpu_seconds(running.pid)
        time.sleep(IDLE_SECONDS)
        used = cpu_seconds(running.pid) - before
        status = Path(f"/proc/{running.pid}/status").read_text()
        rss = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    print(f"\nidle, {CONSOLES} consoles online, nobody attached, {IDLE_SECONDS} s")
    print(f"processor   {100 * used / IDLE_SECONDS:.2f} % of a core")
    print(f"memory      {rss:.1f} MiB resident")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(
        f"Linux {platform.release()}, {os.cpu_count()} processors,"
        f" Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}\n"
    )
    keystrokes(rounds)
    idle()


if __name__ == "__main__":
    main()
