"""The telnet port with real clients, and with ones that no client should be.

(That all clients work in character mode is test_tools.py's; the engine's own tests are in
test_telnet.py.)  The guest says in hexadecimal which bytes it gets.
"""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.base.telnet import Code
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.terminal import Terminal
from tests.support.user import User

IAC, DO, WILL = Code.IAC, Code.DO, Code.WILL

CLIENTS = ["telnet", "telnet-ssl -z nossl"]


@pytest.fixture
def bridge(user: User, directory: Path) -> Iterator[Bridge]:
    with Fake("hex") as vm, Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        bridge.wait_message("vm: ONLINE")
        yield bridge


def connect(bridge: Bridge, directory: Path, client: str) -> Terminal:
    host, port = bridge.telnet
    return Terminal(bridge.user, directory, f"{client} {host} {port}")


def command(terminal: Terminal, text: str) -> None:
    """Say something to telnet itself."""
    terminal.keys("C-]")
    terminal.wait_for(r"telnet[^\n]*> *\s*\Z")
    terminal.type(text)
    terminal.keys("Enter")


def press(terminal: Terminal, key: str, seen: str) -> None:
    terminal.keys(key)
    terminal.wait_for(seen)


@pytest.mark.parametrize("client", CLIENTS)
def test_send_brk_and_ayt(tools: None, bridge: Bridge, directory: Path, client: str) -> None:
    with connect(bridge, directory, client) as terminal:
        press(terminal, "a", "<61>")
        command(terminal, "send brk")
        bridge.wait_message("vm: .*BREAK")
        command(terminal, "send ayt")
        terminal.wait_for(r"\[ttybridge: yes\]")
        press(terminal, "b", "<62>")
        assert re.findall("<..>", terminal.text) == ["<61>", "<62>"]


@pytest.mark.parametrize("client", CLIENTS)
def test_interrupt_in_line_mode(tools: None, bridge: Bridge, directory: Path, client: str) -> None:
    """^C is IAC IP and IAC DO TIMING-MARK there; nothing is shown until that is answered."""
    with connect(bridge, directory, client) as terminal:
        press(terminal, "a", "<61>")
        command(terminal, "mode line")
        terminal.type("typed")
        press(terminal, "Enter", "<74><79><70><65><64><0a>")
        press(terminal, "C-c", "<03>")
        terminal.type("b")
        press(terminal, "Enter", "<62><0a>")
        assert re.findall("<..>", terminal.text)[-3:] == ["<03>", "<62>", "<0a>"]


def test_telnet_at_a_raw_port_is_told(tools: None, bridge: Bridge, directory: Path) -> None:
    """PuTTY speaks first: what it says is typed, for a raw port has eight bits, but it is said."""
    host, port = bridge.raw
    with Terminal(bridge.user, directory, f"plink -telnet -P {port} {host}"):
        bridge.wait_message("vm: .* speaks telnet to the raw port; use the telnet port")


def test_no_hint_for_who_does_not_speak_telnet(bridge: Bridge) -> None:
    with Client(bridge.raw) as client:
        client.type(b"\xff\xffa\xff\xf4")
        client.read_until(b"<ff><ff><61><ff><f4>")
    assert not any("telnet" in line for line in bridge.messages)


FLOODS = {
    "are you there": bytes([IAC, Code.AYT]),
    "new options": b"".join(bytes([IAC, DO, n, IAC, WILL, n]) for n in range(40, 240)),
    "a change of mind": bytes([IAC, Code.DONT, 0, IAC, DO, 0]),
    "timing marks": bytes([IAC, DO, 6]),
    "a subnegotiation without end": bytes([IAC, Code.SB, 24]) + b"x" * 4093,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_one_who_asks_for_ever_and_never_reads(bridge: Bridge, flood: str) -> None:
    """Its answers take bounded memory; the others do not notice."""
    asked = FLOODS[flood] * ((2 << 20) // len(FLOODS[flood]))
    with Client(bridge.telnet) as other, Client(bridge.telnet) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        bridge.wait_attached(2)
        before = memory(bridge)
        client.type(asked + bytes([IAC, Code.SE]) + b"z")
        other.type(b"k")
        other.read_until(b"<6b>")
        other.read_until(b"<7a>")  # all has been read
        assert memory(bridge) - before < 4 << 20


def memory(bridge: Bridge) -> int:
    """Bytes in use by the service (proc(5), statm)."""
    return int(Path(f"/proc/{bridge.process.pid}/statm").read_text().split()[1]) * 4096
