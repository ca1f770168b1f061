"""The clients that are compared: each between one websocket and one way to attach.

A client whose program is not installed is left out; which were found, the results say.
"""

import importlib.metadata
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from attach import Port, Pty, Way
from processes import HERE, eventually, line, process


@dataclass(frozen=True)
class Running:
    """A started client: its process (and descendants), and where to attach."""

    pid: int
    way: Way


@dataclass(frozen=True)
class Client:
    name: str
    kind: str  # of the way to attach: raw, telnet, pty
    start: Callable[[str], AbstractContextManager[Running]]  # for a ws:// URL
    ours: bool = False


class Service:
    """A running ttybridge."""

    def __init__(self, pid: int, places: list[dict[str, str]], messages: Path) -> None:
        self.pid = pid
        self.places = places
        """What it announced of each console."""
        self._messages = messages

    def wait_online(self) -> None:
        """Until all consoles are."""
        eventually(lambda: self._messages.read_text().count(": ONLINE") >= len(self.places))


@contextmanager
def ttybridge(*urls: str, more: str = "") -> Iterator[Service]:
    """A service with these URLs.

    ``more`` is what each console has in the configuration beside its URL.
    """
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config.toml"
        config.write_text(
            "".join(f'[consoles.vm{n}]\nurl = "{url}"\n{more}\n' for n, url in enumerate(urls))
        )
        runtime, messages = Path(directory) / "run", Path(directory) / "messages"
        command = ("ttybridge", "run", "--config", config, "--json", "--runtime-dir", runtime)
        with messages.open("wb") as log, process(*command, messages=log) as running:
            yield Service(running.pid, [json.loads(line(running)) for _ in urls], messages)


@contextmanager
def ours(kind: str, url: str, more: str = "") -> Iterator[Running]:
    with ttybridge(url, more=more) as service:
        yield Running(service.pid, way_to(service.places[0], kind))


def way_to(place: dict[str, str], kind: str) -> Way:
    if kind == "pty":
        return Pty(place["pty"])
    return Port(int(place[kind].rpartition(":")[2]), telnet=kind == "telnet")


@contextmanager
def serving(command: Callable[[int], list[str | Path]]) -> Iterator[Running]:
    """A program that is told a port to listen on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with process(*command(port)) as running:
        yield Running(running.pid, Port(port))


@contextmanager
def websocat(url: str) -> Iterator[Running]:
    options = ("-b", "-E", "--protocol", "binary")
    with serving(lambda port: ["websocat", *options, f"tcp-l:127.0.0.1:{port}", url]) as running:
        yield running


@contextmanager
def pump(script: str, url: str) -> Iterator[Running]:
    with serving(lambda port: [sys.executable, HERE / script, str(port), url]) as running:
        yield running


@contextmanager
def socat_websocat(url: str) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as directory:
        link = Path(directory) / "pty"
        peer = f'EXEC:"websocat -b -E --protocol binary - {url}"'
        with process("socat", f"PTY,rawer,link={link}", peer) as running:
            eventually(link.exists)
            yield Running(running.pid, Pty(str(link)))


@contextmanager
def bare_pty(_url: str) -> Iterator[Running]:
    with process(sys.executable, HERE / "bare_pty.py") as running:
        yield Running(running.pid, Pty(line(running).decode().strip()))


# What no client can exceed: a guest of its own that writes to a PTY, whatever the URL.
BARE_PTY = Client("(the kernel's PTY alone)", "pty", bare_pty)


def clients() -> list[Client]:
    """All that can run here."""
    found = [
        Client("ttybridge", kind, partial(ours, kind), ours=True)
        for kind in ("raw", "telnet", "pty")
        if kind != "telnet" or offers_telnet()
    ]
    if shutil.which("websocat"):
        found.append(Client("websocat", "raw", websocat))
        if shutil.which("socat"):
            found.append(Client("socat + websocat", "pty", socat_websocat))
    for name, module in (
        ("trio-websocket", "trio_websocket"),
        ("websockets.trio", "websockets.trio"),
    ):
        if importlib.util.find_spec(module):
            script = f"pump_{name.replace('-', '_').replace('.', '_')}.py"
            found.append(Client(f"{name} pump", "raw", partial(pump, script)))
    return found


def offers_telnet() -> bool:
    with ttybridge("ws://127.0.0.1:9") as service:
        return service.places[0]["telnet"] is not None


def versions() -> dict[str, str]:
    """Of what is compared and of what it stands on."""
    found = {
        name: importlib.metadata.version(name)
        for name in ("ttybridge", "trio", "websockets", "trio-websocket")
    }
    for command in ("websocat --version", "socat -V", "qemu-system-x86_64 --version"):
        if shutil.which(command.split()[0]):
            said = subprocess.run(command.split(), capture_output=True, text=True, check=True)
            words = said.stdout.split()
            found[words[0]] = next(word for word in words if word[0].isdigit())
    return found
