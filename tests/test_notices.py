"""What a person at a terminal is told and shown, end to end: a VM that is off, comes, and goes.

(Each case of the bytes is test_attach.py's; what of the past is shown is test_replay.py's.)
"""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import free_port
from tests.support.terminal import Terminal
from tests.support.user import User
from tests.test_replay import QUERIES

# How a terminal attaches: {link}, {directory} and {port} are the console's.
WAYS = {
    "screen": "screen {link}",
    "attach": "ttybridge attach vm --runtime-dir {directory}",
    "telnet": "telnet 127.0.0.1 {port}",
}

# tmux takes no notice of CAN in the second, screen in both strings.
BEGUN = [b"\x1b[3", b"\x1bP1$qhalf a string", b"\x1b_half a string"]


@pytest.fixture
def off(user: User, directory: Path) -> Iterator[Bridge]:
    """A bridge whose VM is off."""
    with Bridge(user, directory / "run", f"vm=ws://127.0.0.1:{free_port()}") as bridge:
        bridge.wait_message("vm: WAITING")
        yield bridge


def sit_down(bridge: Bridge, directory: Path, way: str) -> Terminal:
    command = WAYS[way].format(link=bridge.link, directory=bridge.directory, port=bridge.telnet[1])
    return Terminal(bridge.user, directory, command)


@pytest.mark.parametrize("way", WAYS)
def test_a_terminal_at_a_vm_that_is_off_is_not_blank(
    tools: None, off: Bridge, directory: Path, way: str
) -> None:
    url = off.places[0]["url"]
    with sit_down(off, directory, way) as terminal:
        terminal.wait_for(rf"(?m)^\[ttybridge: vm is waiting for {url}\]$")
        with Fake("hex", int(url.rpartition(":")[2])):
            terminal.wait_for(r"(?m)^\[ttybridge: vm is online\]$")
            terminal.keys("a")
            terminal.wait_for(r"(?m)^<61>$")
        terminal.wait_for(rf"(?m)^<61>\n\[ttybridge: vm is waiting for {url}\]$")


def test_programs_are_told_nothing_and_others_may_be_spared(user: User, directory: Path) -> None:
    port = free_port()
    config = directory / "config.toml"
    config.write_text(
        f'[consoles.vm]\nurl = "ws://127.0.0.1:{port}"\nunix = true\nnotices = false\n'
    )
    config.chmod(0o644)
    with Bridge(user, directory / "run", "--config", str(config)) as bridge:
        bridge.wait_message("vm: WAITING")
        place = bridge.places[0]
        with Client(bridge.raw) as raw, Client(place["unix"]) as unix, Client(bridge.telnet) as t:
            bridge.wait_attached(3)
            with Fake("hex", port):
                bridge.wait_message("vm: ONLINE")
                raw.type(b"a")
                assert raw.read_until(b">") == b"<61>"
                assert unix.read_until(b">") == b"<61>"
                assert b"ttybridge" not in t.read_until(b">")


def test_a_stopped_reader_is_told_what_it_missed(user: User, directory: Path) -> None:
    """And goes on at the start of a line."""
    text = b"".join(b"%08d\r\n" % n for n in range(400_000))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Bridge(user, directory / "run", f"vm=tcp://127.0.0.1:{server.getsockname()[1]}") as bridge,
        server.accept()[0] as guest,
        Client(bridge.telnet) as slow,
        Client(bridge.raw) as other,
    ):
        bridge.wait_message("vm: ONLINE")
        bridge.wait_attached(2)
        writer = threading.Thread(target=guest.sendall, args=(text,))
        writer.start()
        assert other.read_exactly(len(text)) == text
        writer.join()
        seen = slow.read_until(text[-10:])
        skipped = bridge.status()["bytes"]["skipped"]
        first, notice, rest = seen.partition(
            b"\x18\x1b\\\r\n[ttybridge: vm: %d bytes skipped, read too slowly]\r\n" % skipped
        )
        assert notice
        first = first[first.index(text[:10]) :]  # past the greeting and the first notice
        assert first == text[: len(first)]
        assert rest == text[len(first) + skipped :]


@pytest.mark.parametrize("way", ["screen", "attach"])
def test_a_sequence_that_was_cut_short_hides_no_notice(
    tools: None, user: User, directory: Path, way: str
) -> None:
    """The VM goes away amid an escape sequence or a control string, and comes back."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Bridge(user, directory / "run", f"vm=tcp://127.0.0.1:{server.getsockname()[1]}") as bridge,
        sit_down(bridge, directory, way) as terminal,
    ):
        bridge.wait_attached(1)
        for number, begun in enumerate(BEGUN, 1):
            with server.accept()[0] as guest:
                guest.sendall(b"text %d" % number + begun)
                terminal.wait_for(rf"(?m)^text {number}")
            terminal.wait_for(rf"(?m)^text {number}.*\n\[ttybridge: vm is waiting for .*\]$")


@pytest.mark.parametrize("way", WAYS)
def test_a_terminal_types_nothing_at_what_it_is_shown_of_the_past(
    tools: None, user: User, directory: Path, way: str
) -> None:
    """The past holds all there is to ask; live, the terminal answers (or this test would prove nothing)."""
    with Fake("echo") as vm, Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        bridge.wait_message("vm: ONLINE")
        with Client(bridge.raw) as other:
            other.type(b"".join(QUERIES.values()) + b"\r\nthat is all")
            other.read_until(b"that is all")
            with sit_down(bridge, directory, way) as terminal:
                terminal.wait_for("that is all")
                terminal.keys("k")
                assert other.read_until(b"k") == b"k"
                other.type(b"\x1b[5n")
                assert other.read_until(b"n") == b"\x1b[5n"
                assert other.read_until(b"n") == b"\x1b[0n"
