"""What a log costs: the processor time of a service whose one console brings 5 MB/s.

    .venv/bin/python contrib/bench/log.py [--seconds S] [--rate MB] [--rounds N]

Without a log and with one, in turns of one process (reloaded: two processes are too
different), for frames of one byte (QEMU's UART sends each byte as a frame) and of
1024 (a virtio console), with nobody attached and with one client of the raw port.  Medians.
"""

import argparse
import base64
import hashlib
import itertools
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TICK = 0.002
SETTLE = 0.7  # after a start or a reload
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 4.1
TEXT = b"".join(
    b"[%12.6f] usb 1-1: new high-speed USB device number %d\r\n" % (n, n) for n in range(9000)
)


def frames(data: bytes, size: int) -> bytes:
    """``data`` as unmasked binary frames of ``size`` bytes each."""
    head = b"\x82" + (bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2, "big"))
    return b"".join(head + data[at : at + size] for at in range(0, len(data) - size + 1, size))


class Guest:
    """A websocket server that sends ``rate`` bytes of text a second to its one client."""

    def __init__(self, rate: float, size: int) -> None:
        share = int(rate * TICK) // size * size
        self._bursts = [
            frames(TEXT[at : at + share], size) for at in range(0, len(TEXT) - share, share)
        ]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent = 0
        self._share = share
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        request = client.recv(65536)
        key = re.search(rb"(?i)^sec-websocket-key: *(\S+)", request, re.MULTILINE)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + _GUID, usedforsecurity=False).digest())
        client.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: binary\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        due = time.monotonic()
        try:
            while True:
                for burst in self._bursts:
                    client.sendall(burst)
                    self.sent += self._share
                    due += TICK
                    time.sleep(max(0, due - time.monotonic()))
        except OSError:
            pass  # measured enough


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads so far (sched-stats), where stat(5) counts whole ticks."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def read(address: str) -> None:
    """A client of the raw port that takes all there is."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as client:
        while client.recv(1 << 20):
            pass


def measure(
    guest: Guest, seconds: float, rounds: int, *, attached: bool
) -> dict[bool, list[float]]:
    """Processor seconds per second without a log and with one, of one service."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "config.toml")

        def configure(log: bool) -> None:
            url = f"ws://127.0.0.1:{guest.port}"
            config.write_text(f'[consoles.vm]\nurl = "{url}"\nlog = {str(log).lower()}\n')

        configure(log=False)
        command = [sys.executable, "-m", "bridge", "run", "--json", "--config", str(config)]
        with subprocess.Popen(
            [*command, "--runtime-dir", f"{directory}/run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"XDG_STATE_HOME": directory},
        ) as service:
            assert service.stdout is not None
            place = json.loads(service.stdout.readline())
            if attached:
                threading.Thread(target=read, args=[place["raw"]], daemon=True).start()
            time.sleep(SETTLE)
            shares: dict[bool, list[float]] = {False: [], True: []}
            for log in (False, True) * rounds:
                configure(log)
                service.send_signal(signal.SIGHUP)
                time.sleep(SETTLE)
                begin, now = cpu_seconds(service.pid), time.monotonic()
                time.sleep(seconds)
                used, passed = cpu_seconds(service.pid) - begin, time.monotonic() - now
                shares[log].append(used / passed)
            service.terminate()
        assert list(Path(directory, "ttybridge/log").glob("vm.log*")), "nothing was logged"
    return shares


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rate", type=float, default=5, help="MB/s")
    parser.add_argument("--rounds", type=int, default=8)
    arguments = parser.parse_args()
    for size, attached in itertools.product((1, 1024), (False, True)):
        guest, begin = Guest(arguments.rate * 1e6, size), time.monotonic()
        shares = measure(guest, arguments.seconds, arguments.rounds, attached=attached)
        came = guest.sent / (time.monotonic() - begin) / 1e6
        without, logged = (statistics.median(shares[log]) for log in (False, True))
        print(
            f"frames of {size:4}, {'a client' if attached else 'nobody'} attached:"
            f" {came:.1f} MB/s, processor {without:.2%} without a log,"
            f" {logged:.2%} with, {logged / without - 1:+.0%}"
        )


if __name__ == "__main__":
    main()
