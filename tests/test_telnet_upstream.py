"""Telnet within a websocket or a plain stream: as QEMU speaks it, and as others do."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.base.telnet import Code, Telnet
from bridge.settings.url import UpstreamUrl
from bridge.upstream.protocol import Raw, Retry
from bridge.upstream.telnet import QEMU_GREETING, TelnetSpeech
from bridge.upstream.websocket import Wire
from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.user import User
from tests.support.waiting import eventually

ANY = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"\xff", b"\xff\xff", b"\xff\xf3", b"\r"]))
).map(b"".join)
CUTS = st.lists(st.integers(0, 60), max_size=12)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def receive(speech: TelnetSpeech, pieces: list[bytes]) -> bytes:
    return b"".join(speech.receive(piece)[0] for piece in pieces)


class QemuInput:
    """What QEMU makes of our bytes (chardev/char-socket.c:tcp_chr_process_IAC_bytes)."""

    def __init__(self) -> None:
        self.text = b""
        self.breaks: list[int] = []
        self._state = 1

    def take(self, wire: bytes) -> None:
        for byte in wire:
            if self._state == 1 and byte != Code.IAC:
                self.text += bytes([byte])
            elif self._state == 1:
                self._state = 2
            elif self._state == 2 and byte == Code.IAC:
                self.text += b"\xff"
                self._state = 1
            else:
                if self._state == 2 and byte == Code.BRK:
                    self.breaks.append(len(self.text))
                    self._state += 1
                self._state = self._state + 1 if self._state < 3 else 1


@given(ANY, CUTS)
def test_all_that_a_qemu_sends_after_its_greeting_is_the_guests(
    data: bytes, cuts: list[int]
) -> None:
    speech = TelnetSpeech(Raw())
    assert receive(speech, cut(QEMU_GREETING + data, cuts)) == data
    assert speech.open
    assert speech.end is None


@given(st.lists(st.one_of(ANY, st.none())))
def test_what_is_typed_reaches_a_qemu_with_its_breaks(typed: list[bytes | None]) -> None:
    speech, qemu = TelnetSpeech(Raw()), QemuInput()
    speech.receive(QEMU_GREETING)
    text, breaks = b"", []
    for each in typed:
        if each is None:
            qemu.take(speech.interrupt())
            breaks.append(len(text))
        else:
            qemu.take(speech.send(each))
            text += each
    assert (qemu.text, qemu.breaks) == (text, breaks)


@given(ANY, CUTS)
def test_any_server_is_borne_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    whole, pieces = TelnetSpeech(Raw()), TelnetSpeech(Raw())
    assert receive(whole, [data]) == receive(pieces, cut(data, cuts))


@given(ANY, CUTS)
def test_a_server_that_keeps_to_rfc_854_is_understood(data: bytes, cuts: list[int]) -> None:
    server, speech = Telnet.server(), TelnetSpeech(Raw())
    assert server.greeting() != QEMU_GREETING
    _, answer = speech.receive(server.greeting())
    server.decode(answer)
    assert receive(speech, cut(server.encode(data), cuts)) == data
    events, _ = server.decode(speech.send(data) + speech.interrupt())
    assert b"".join(e for e in events if isinstance(e, bytes)) == data


@given(ANY, st.integers(0, 80), st.booleans())
def test_another_process_goes_on_anywhere(data: bytes, place: int, qemu: bool) -> None:
    stream = (QEMU_GREETING if qemu else b"") + data
    first, whole = TelnetSpeech(Raw()), TelnetSpeech(Raw())
    expected = receive(whole, [stream])
    seen = receive(first, [stream[:place]])
    state = json.loads(json.dumps(first.state()))
    second = TelnetSpeech.restore(Raw.restore(state["below"]), state)
    seen += receive(second, [stream[place:]])
    assert (seen, second.open) == (expected, whole.open)
    assert second.send(b"a\xff\r") == whole.send(b"a\xff\r")


def test_a_websocket_without_telnet_is_told_from_one_with_it() -> None:
    """Else the IACs would be typed at the guest."""
    url = UpstreamUrl.parse("ws://127.0.0.1:1")
    wire = Wire(url)
    wire.open = True  # the handshake is test_websocket.py's
    speech = TelnetSpeech(wire)
    assert speech.receive(b"\x82\x05login") == (b"", b"")
    assert speech.end is not None
    assert speech.end.retry is Retry.NO
    assert "telnet=on" in speech.end.reason


# --- on a real QEMU

ALL = bytes(range(256))


def settings(directory: Path, url: str, *lines: str) -> list[str]:
    file = directory / "config.toml"
    file.write_text("\n".join(["[consoles.vm]", f'url = "{url}"', *lines, ""]))
    file.chmod(0o644)
    return ["--config", str(file)]


@pytest.mark.parametrize("websocket", [True, False])
def test_all_bytes_pass_and_go_on_after_an_exec(
    user: User, directory: Path, boot: Boot, websocket: bool
) -> None:
    vm = boot("echofifo", telnet=True, websocket=websocket)
    text = ALL + random.Random(1).randbytes(512) + b"\xff\xff\xff"
    more = settings(directory, vm.url, 'upstream = "telnet"')
    with Bridge(user, directory / "run", *more) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        client.reach_echo()
        client.type(text)
        assert client.read_exactly(len(text)) == text
        done = user.run(["ttybridge", "reload", "--exec", "--runtime-dir", directory / "run"])
        assert (done.returncode, done.stderr) == (0, "")
        client.type(text)
        assert client.read_exactly(len(text)) == text
        assert bridge.status()["connections"] == 1
        done = user.run(["ttybridge", "break", "vm", "--runtime-dir", directory / "run"])
        assert done.returncode == 0
        assert client.read_exactly(1) == b"\0"  # what a UART has received then


def test_a_reload_turns_telnet_on_and_off(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("echofifo", telnet=True)
    more = settings(directory, vm.url)
    with Bridge(user, directory / "run", *more) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        eventually(lambda: bridge.status()["bytes"]["from_guest"] == len(QEMU_GREETING))
        settings(directory, vm.url, 'upstream = "telnet"')
        seen = len(bridge.messages)
        done = user.run(["ttybridge", "reload", "--runtime-dir", directory / "run"])
        assert done.stdout == "changed vm\n"
        bridge.wait_message("vm: ONLINE", after=seen)
        client.reach_echo()
        client.type(ALL)
        assert client.read_exactly(256) == ALL


@pytest.mark.parametrize("guest", ["flood", "deaf"])
def test_a_chardev_without_telnet_is_named(
    user: User, directory: Path, boot: Boot, guest: str
) -> None:
    vm = boot(guest)
    more = settings(directory, vm.url, 'upstream = "telnet"')
    with Bridge(user, directory / "run", *more) as bridge:
        bridge.wait_message("vm: FAILED: .*telnet=on")
    assert not vm.connected()
