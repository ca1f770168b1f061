"""The benchmark's fake VM says what the real one says; and the benchmark runs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.support.peer import Peer
from tests.support.user import REPOSITORY, User
from tests.support.waiting import eventually

BENCH = REPOSITORY / "contrib" / "bench"


@contextmanager
def fake() -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, BENCH / "fake.py", "1"], stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        try:
            yield int(running.stdout.readline())
        finally:
            running.kill()


def echo_of(peer: Peer, text: bytes) -> bytes:
    """The bytes on the wire that answer ``text``, typed key by key."""
    wire = b""
    for key in text:
        peer.send(bytes([key]))
        wire += peer.frame()
    return wire


def reach_echo(port: int) -> Peer:
    """Connect, and type until the guest, once booted, returns it."""
    peer = Peer(port)
    peer.answer()
    peer.socket.settimeout(0.2)

    def echoed() -> bool:
        peer.send(b"?")
        try:
            return bool(peer.socket.recv(100))
        except TimeoutError:
            return False

    eventually(echoed)
    try:
        while peer.socket.recv(100):
            pass
    except TimeoutError:
        pass
    peer.socket.settimeout(30)
    return peer


def test_the_fake_answers_as_qemu_does(boot: Boot) -> None:
    """An echo is a frame of its own for each byte: 82 01 and the byte."""
    text = bytes(range(256))
    vm = boot("echofifo")
    peer = reach_echo(vm.port)
    real = echo_of(peer, text)
    peer.leave()
    with fake() as port:
        with Peer(port) as other:
            assert other.answer()[0].startswith("http/1.1 101")
            # A CR ends a command of the fake's; there is none such.
            assert echo_of(other, text) == real == b"".join(b"\x82\x01%c" % byte for byte in text)


@pytest.mark.parametrize(("size", "count"), [(1, 2000), (16, 3001), (125, 1000), (4096, 10_000)])
def test_the_fakes_flood_is_what_it_says(size: int, count: int) -> None:
    command = b"flood %d %d\r" % (size, count)
    with fake() as port, Peer(port) as peer:
        peer.answer()
        peer.send(command)
        wire = b""
        while not wire.endswith(b"\x82\x01\xfe"):
            wire += peer.socket.recv(1 << 16)
    wire, text, sizes = wire[3 * len(command) : -3], b"", []
    while wire:
        length, start = wire[1], 2
        if length == 126:
            length, start = int.from_bytes(wire[2:4], "big"), 4
        assert wire[0] == 0x82
        text, wire = text + wire[start : start + length], wire[start + length :]
        sizes.append(length)
    assert text == bytes(n % 251 for n in range(count))
    assert sizes == [size] * (count // size) + [count % size] * (count % size > 0)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "parts",
    [
        "keys",
        pytest.param("flood,neighbour,fanout,wakeups,paste,idle", marks=pytest.mark.long),
    ],
)
def test_the_benchmark_runs(user: User, tmp_path: Path, parts: str) -> None:
    options = ["--only", parts, "--rounds", "1", "--seconds", "0.1", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, BENCH / "bench.py", *options],
        env={**os.environ, "PATH": user.environment["PATH"], "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    (written,) = tmp_path.glob("*.json")
    document = json.loads(written.read_text())
    assert written.with_suffix(".md").read_text() in done.stdout
    assert {"date", "machine", "kernel", "ttybridge"} <= set(document)
    for table in document["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
        if table["title"].startswith("Keystroke round trip"):
            kinds = {row[0] for row in table["rows"] if row[1] == "ttybridge"}
            assert kinds == {"raw", "telnet", "pty"}
