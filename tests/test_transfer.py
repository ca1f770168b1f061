"""Bytes arrive: all values, in order, none lost, down and up."""

import hashlib
import itertools
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.terminal import Terminal
from tests.support.user import User

MIB = 1 << 20
Figure: TypeAlias = Callable[..., None]
NOISE = random.Random(0).randbytes(MIB)


def settings(directory: Path, url: str, setting: str) -> str:
    config = directory / "config.toml"
    config.write_text(f'[consoles.vm]\nurl = "{url}"\n{setting}\n')
    config.chmod(0o644)
    return str(config)


def test_one_mebibyte_down_is_exact(user: User, directory: Path) -> None:
    """One byte a frame, as QEMU's UART sends."""
    with Fake("noise") as vm, Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        with Client(bridge.raw) as client:
            bridge.wait_message("ONLINE")
            client.type(b"go")
            assert client.read_exactly(MIB) == NOISE


def test_one_mebibyte_up_is_exact(user: User, directory: Path) -> None:
    """To a guest that takes what comes (`direct`); it answers with the sum of what it got."""
    with Fake("digest") as vm:
        config = settings(directory, vm.url, 'input = "direct"')
        with Bridge(user, directory / "run", "--config", config) as bridge:
            bridge.wait_message("ONLINE")
            with Client(bridge.raw) as client:
                client.type(NOISE)
                assert client.read_exactly(64).decode() == hashlib.sha256(NOISE).hexdigest()


def lines_of(size: int, seed: int) -> bytes:
    """Text of all printable characters in lines."""
    generator = random.Random(seed)
    characters = bytes(range(0x21, 0x7F))
    lines: list[bytes] = []
    while sum(map(len, lines)) < size:
        lines.append(bytes(generator.choices(characters, k=generator.randrange(1, 80))) + b"\r")
    return b"".join(lines)[: size - 1] + b"\r"


@pytest.fixture(params=[4096, pytest.param(65536, marks=pytest.mark.long)])
def paste(request: pytest.FixtureRequest) -> bytes:
    return lines_of(request.param, request.param)


@pytest.mark.parametrize("size", [4096, pytest.param(65536, marks=pytest.mark.long)])
def test_all_byte_values_up_and_down_a_real_uart_are_exact(
    user: User, directory: Path, boot: Boot, size: int
) -> None:
    """QEMU 7.2 loses all but 16 bytes of it without the pacing; the guest returns each byte."""
    data = NOISE[:size]
    vm = boot("echofifo")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        bridge.wait_message("ONLINE")
        client.reach_echo()
        client.type(data)
        assert client.read_exactly(size) == data


def test_keys_into_a_real_uart_without_fifo(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("echo")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        bridge.wait_message("ONLINE")
        client.reach_echo()
        for key in b"ifconfig net0 2001:db8::1" * 4:
            client.type(bytes([key]))
            assert client.read_exactly(1)[0] == key


def test_a_paste_into_linux_is_exact(
    user: User, directory: Path, boot: Boot, linux: Path, paste: bytes
) -> None:
    """With echo, through the kernel's line discipline; the guest itself sums what it got."""
    vm = boot("linux", linux=linux)
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        client.socket.settimeout(60)
        client.read_until(b"guest# ")
        overruns = client.ask("cat /proc/tty/driver/serial")
        client.type(b"md5sum\r")
        client.read_until(b"md5sum\r\n")
        # ^D after a line's end is the end of input.
        client.type(paste + b"\x04")
        text = paste.replace(b"\r", b"\n")
        client.read_until(hashlib.md5(text).hexdigest().encode())
        client.read_until(b"guest# ")
        assert b"oe:" not in overruns
        assert b"oe:" not in client.ask("cat /proc/tty/driver/serial")


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_paste_into_linux_without_websocket_is_exact(
    user: User, directory: Path, boot: Boot, linux: Path, paste: bytes, unix: bool
) -> None:
    """As fast as the guest reads.  tests/test_upstream.py has the same over TLS, to a boot sector."""
    vm = boot("linux", linux=linux, websocket=False, unix=unix)
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        client.socket.settimeout(60)
        bridge.wait_message("ONLINE")
        client.type(b"\r")  # before we came it may have printed its prompt to nobody
        client.read_until(b"guest# ")
        assert bridge.status()["input"]["mode"] == "direct"
        client.type(b"md5sum\r")
        client.read_until(b"md5sum\r\n")
        client.type(paste + b"\x04")
        client.read_until(hashlib.md5(paste.replace(b"\r", b"\n")).hexdigest().encode())
        client.read_until(b"guest# ")
        assert b"oe:" not in client.ask("cat /proc/tty/driver/serial")


def test_a_paste_into_a_uart_without_fifo_is_exact(user: User, directory: Path, boot: Boot) -> None:
    """As boot loaders have it; QEMU 7.2 drops one of two bytes that come together."""
    vm = boot("echo")
    text = lines_of(1400, 1400)
    config = settings(directory, vm.url, "window = 1")
    with Bridge(user, directory / "run", "--config", config) as bridge:
        with Client(bridge.raw) as client:
            bridge.wait_message("ONLINE")
            client.reach_echo()
            client.type(text)
            assert client.read_exactly(len(text)) == text


@pytest.mark.long
def test_a_command_pasted_at_ipxe_is_exact(user: User, directory: Path, boot: Boot) -> None:
    """A network card's firmware, which looks at its port 18 times a second; no settings."""
    vm = boot("ipxe")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        client.read_until(b"for the iPXE command line")
        client.type(b"\x02")
        client.read_until(b"iPXE>")
        client.type(b"echo dhcp-net0-chain-http://boot.example.org/menu.ipxe")
        client.read_until(b"menu.ipxe")
        client.type(b"\r")
        client.read_until(b"\r\ndhcp-net0-chain-http://boot.example.org/menu.ipxe\r\n")


def test_a_paste_through_a_virtio_console_is_exact(
    user: User, directory: Path, boot: Boot, linux: Path, paste: bytes
) -> None:
    """Directly: QEMU 7.2 itself loses nothing of 64 KiB there, though of a mebibyte."""
    vm = boot("linux", linux=linux, virtio=True)
    config = settings(directory, vm.url, 'input = "direct"')
    with Bridge(user, directory / "run", "--config", config) as bridge:
        with Client(bridge.raw) as client:
            client.socket.settimeout(60)
            client.type(b"\r")  # nothing but the prompt is printed here, maybe before we came
            client.read_until(b"guest# ")
            client.type(b"md5sum\r")
            client.read_until(b"md5sum\r\n")
            client.type(paste + b"\x04")
            client.read_until(hashlib.md5(paste.replace(b"\r", b"\n")).hexdigest().encode())


@pytest.mark.long
@pytest.mark.timeout(300)
def test_what_a_guest_without_echo_loses(
    user: User, directory: Path, boot: Boot, linux: Path, figure: Figure
) -> None:
    """Nothing proves there that the guest has read: on QEMU 7.2 no promise, but a figure."""
    vm = boot("linux", linux=linux)
    lost: dict[int, list[float]] = {0: [], 2: []}
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        client.socket.settimeout(60)
        client.read_until(b"guest# ")
        for cores, figures in lost.items():
            for number in range(5):
                client.type(b"stty -echo; wc -c; stty echo\r")
                client.read_until(b"stty echo\r\n")
                with busy(cores):
                    client.type(lines_of(4096, number) + b"\r\x04")
                    said = client.read_until(b"guest# ")
                figures.append(4097 - int(said.split()[0]))
    figure("bytes lost of 4 KiB without echo, idle host", lost[0], "bytes")
    figure("bytes lost of 4 KiB without echo, busy host", lost[2], "bytes")


class PtyClient(Client):
    """The same by way of the PTY."""

    def __init__(self, link: Path) -> None:
        self.fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
        self.seen = b""

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def type(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.fd, data) :]

    def receive(self) -> bytes:
        assert select.select([self.fd], [], [], 60)[0]
        return os.read(self.fd, 1 << 16)


def door(bridge: Bridge, kind: str) -> Client:
    """Come in by PTY, raw or telnet port."""
    if kind == "pty":
        return PtyClient(bridge.link)
    host, _, port = str(bridge.places[0][kind]).rpartition(":")
    client = Client((host, int(port)))
    client.socket.settimeout(60)
    return client


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keep the host's processors at work."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


# Begins when the command after it has been echoed; short, for the shell wraps a line at 80.
BACKGROUND = "(sleep 2; while :; do echo a fox; sleep 0.05; done) & job=$!"
CONDITIONS = ("idle", "busy", "background", "alike")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_64_kib_arrive_in_linux_20_of_20(
    user: User, directory: Path, boot: Boot, linux: Path, figure: Figure
) -> None:
    """By each door, on an idle host and a busy one, beside a job that prints, and with equal lines."""
    vm = boot("linux", linux=linux)
    seconds = []
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        with Client(bridge.raw) as first:
            first.socket.settimeout(60)
            first.read_until(b"guest# ")
        for number, (condition, kind) in zip(
            range(20), itertools.cycle(itertools.product(CONDITIONS, ("pty", "raw", "telnet")))
        ):
            line = b"all lines are alike, all lines are alike\r"
            text = line * (65536 // len(line)) if condition == "alike" else lines_of(65536, number)
            with busy(2 if condition == "busy" else 0), door(bridge, kind) as client:
                if condition == "background":
                    client.ask(BACKGROUND)
                began = time.monotonic()
                client.type(b"md5sum\r")
                client.read_until(b"md5sum\r\n")
                client.type(text + b"\x04")
                digest = hashlib.md5(text.replace(b"\r", b"\n")).hexdigest()
                client.read_until(digest.encode())
                seconds.append(time.monotonic() - began)
                if condition == "background":
                    client.type(b"kill $job\r")
                    client.read_until(b"guest# ")
                    client.ask("echo calm again")
                assert b"oe:" not in client.ask("cat /proc/tty/driver/serial"), (condition, kind)
    figure("64 KiB into Linux, 20 of 20", seconds)


@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=pytest.mark.long)])
def test_screen_survives_the_vm(
    user: User, directory: Path, boot: Boot, linux: Path, seconds: int, figure: Figure
) -> None:
    """QEMU is killed under an attached screen and started again; nobody touches screen."""
    vm = boot("linux", linux=linux, talkative=True)
    with (
        Bridge(user, directory / "run", f"vm={vm.url}") as bridge,
        Terminal(user, directory, f"screen {bridge.link}") as terminal,
    ):
        terminal.wait_for("guest# ")  # what is typed before is flushed by the shell
        terminal.type("clear; echo before-$((1 + 1))")
        terminal.keys("Enter")
        terminal.wait_for("before-2")
        vm.kill()
        seen = bridge.wait_message("vm: WAITING")
        threading.Event().wait(seconds)  # the VM is down for so long
        terminal.keys("C-a", "C")  # screen clears what it shows
        vm.restart()
        restarted = time.monotonic()
        bridge.wait_message("vm: ONLINE", after=seen, limit=5)
        online = time.monotonic()
        terminal.wait_for(r"\S")
        shown = time.monotonic()
        terminal.wait_for("guest# ")  # what is typed before is flushed by the shell
        figure(f"QEMU back after {seconds} s, then ONLINE", [online - restarted])
        figure(f"QEMU back after {seconds} s, then output in screen", [shown - restarted])
        terminal.type("echo after-$((1 + 1))")
        terminal.keys("Enter")
        terminal.wait_for("after-2")
