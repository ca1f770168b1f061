"""The built-in console has QEMU's habits: the same cases run on it and on the real one."""

import select
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.support.fake import Fake
from tests.support.peer import Peer
from tests.support.qemu import Qemu

Machine: TypeAlias = Qemu | Fake
Start: TypeAlias = Callable[[str], Machine]


@pytest.fixture(params=["built-in", "qemu"])
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    if request.param == "qemu":
        yield request.getfixturevalue("boot")
        return
    fakes: list[Fake] = []

    def start(guest: str) -> Fake:
        fakes.append(Fake(guest))
        return fakes[-1]

    yield start
    for fake in fakes:
        if fake.process.poll() is None:
            fake.kill()


def probe(peer: Peer) -> None:
    """Type until the guest echoes: what comes before a VM has booted is lost."""
    peer.socket.settimeout(0.2)
    while True:
        peer.send(b"?")
        try:
            peer.socket.recv(1, 2)  # MSG_PEEK
        except TimeoutError:
            continue
        break
    peer.socket.settimeout(30)
    while select.select([peer.socket], [], [], 0.3)[0]:
        peer.socket.recv(4096)


def silent(peer: Peer) -> bool:
    return not select.select([peer.socket], [], [], 0.3)[0]


@pytest.mark.parametrize("protocol", ["binary", None, "base64, binary"])
def test_answers_101_and_binary_if_asked_for(start: Start, protocol: str | None) -> None:
    with Peer(start("deaf").port, protocol=protocol) as peer:
        answer = peer.answer()
        assert answer[0].startswith("http/1.1 101")
        assert ("sec-websocket-protocol: binary" in answer) == (protocol is not None)


def test_any_other_path_is_not_found(start: Start) -> None:
    with Peer(start("deaf").port, path="/vm1") as peer:
        assert peer.answer()[0].startswith("http/1.1 404")


def test_output_is_one_byte_a_frame(start: Start) -> None:
    with Peer(start("echofifo").port) as peer:
        peer.answer()
        probe(peer)
        peer.send(b"abc")
        assert [peer.frame() for _ in range(3)] == [b"\x82\x01a", b"\x82\x01b", b"\x82\x01c"]


def test_every_byte_value_passes(start: Start) -> None:
    with Peer(start("echofifo").port) as peer:
        peer.answer()
        probe(peer)
        for byte in range(256):
            peer.send(bytes([byte]))
            assert peer.frame() == bytes([0x82, 1, byte])


def test_a_second_client_is_connected_but_not_answered(start: Start) -> None:
    """Until the first one leaves; then it is served at once."""
    machine = start("echofifo")
    first = Peer(machine.port)
    first.answer()
    with Peer(machine.port) as second, Peer(machine.port) as third:
        assert silent(second)
        first.leave()
        assert second.answer()[0].startswith("http/1.1 101")
        probe(second)
        assert silent(third)


def test_the_end_is_a_bare_end_of_stream(start: Start) -> None:
    machine = start("deaf")
    with Peer(machine.port) as peer:
        peer.answer()
        machine.kill()
        assert peer.frame() == b""


def test_one_who_leaves_a_flooding_guest_properly_frees_the_console(start: Start) -> None:
    machine = start("flood")
    for _ in range(3):
        peer = Peer(machine.port)
        assert peer.answer()[0].startswith("http/1.1 101")
        assert peer.frame()[:2] == b"\x82\x01"
        peer.leave()
