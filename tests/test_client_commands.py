"""The commands that ask the service, as a user meets them: what they say, how they end."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from bridge.commands.client import Client as Control
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.terminal import Terminal
from tests.support.user import User
from tests.support.waiting import LIMIT, eventually
from tests.test_cli import refused

NOBODY = "ws://127.0.0.1:9"

# With a name, where there is one.
ASKING = [
    "status {}",
    "list {}",
    "attach {}",
    "attach --read-only {}",
    "send {} text",
    "wait {} text --timeout 60",
    "break {}",
    "remove {}",
]
OTHERS = [
    "status",
    "status --json",
    "status --watch",
    "status --prometheus",
    "add new ws://127.0.0.1:9",
    "reload",
    "reload --exec",
]


@pytest.fixture(scope="module")
def demo(user: User) -> Iterator[Bridge]:
    """A service with the built-in console, for all tests that leave it as it was."""
    with Bridge(user, user.directory("commands"), command="demo") as bridge:
        bridge.wait_message("demo: ONLINE")
        yield bridge


def words(command: str, directory: Path) -> list[str]:
    return [*command.split(), "--runtime-dir", str(directory)]


# Nobody there, nobody of that name, nobody who answers.


@pytest.mark.parametrize("command", [*ASKING, *OTHERS])
def test_no_service(user: User, directory: Path, command: str) -> None:
    code, said = refused(user, *words(command.format("vm1"), directory))
    assert code == 1
    assert said == (
        f"ttybridge: no ttybridge runs with {directory};"
        " start one with 'ttybridge run' or 'systemctl --user start ttybridge'\n"
    )


@pytest.mark.parametrize("command", ASKING)
def test_no_console_of_that_name(user: User, demo: Bridge, command: str) -> None:
    code, said = refused(user, *words(command.format("none"), demo.directory))
    assert (code, said) == (1, "ttybridge: no console 'none'\n")


@pytest.mark.long
def test_a_service_that_hangs_is_not_waited_for(user: User, bridge: Bridge) -> None:
    # Of its own, for it heeds them all once it goes on.
    bridge.process.send_signal(signal.SIGSTOP)
    try:
        commands = [command.format("demo") for command in [*ASKING, *OTHERS]]
        commands.remove("reload --exec")
        running = [start(user, words(command, bridge.directory)) for command in commands]
        for command, process in zip(commands, running, strict=True):
            out, err = process.communicate(timeout=60)
            where = f"{bridge.directory} (pid {bridge.process.pid})"
            expected = (1, b"", f"ttybridge: the ttybridge of {where} does not answer\n".encode())
            assert (process.returncode, out, err) == expected, command
        # Nor one that does not even take a connection.
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(300)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(bridge.directory / ".control"))
        code, said = refused(user, *words("status", bridge.directory))
        assert (code, said) == (1, expected[2].decode())
        for client in waiting:
            client.close()
    finally:
        bridge.process.send_signal(signal.SIGCONT)


def start(user: User, arguments: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return user.popen(["ttybridge", *arguments], **(streams | options))


def test_what_takes_its_time_is_waited_for(demo: Bridge) -> None:
    """The service is asked whether it is there, and is."""
    with Fake("echo") as vm:
        with Control(demo.directory) as control:
            settings = {"url": vm.url, "input": "paced", "rate": 20}
            control.ask("add", name="slow", settings=settings)
        demo.wait_message("slow: ONLINE")
        with Control(demo.directory, patience=1.5) as control:
            before = time.monotonic()
            assert control.ask("send", name="slow", data="eHh4" * 25)["sent"] == 75
            assert time.monotonic() - before > 1.5
        with Control(demo.directory) as control:
            control.ask("remove", name="slow")


def test_wrong_words_of_add_are_a_wrong_command_line(user: User, demo: Bridge) -> None:
    for arguments in (["x", "http://h"], ["../x", NOBODY], ["demo", NOBODY]):
        assert refused(user, *words("add", demo.directory), *arguments)[0] == 2


# status.


def test_status_has_all_that_one_wants_to_know(user: User, demo: Bridge) -> None:
    with Client(demo.raw) as client:
        client.sync()
        table, _, details = user.run(
            ["ttybridge", *words("status", demo.directory)]
        ).stdout.partition("\n\n")
    head, row = (re.split(" {2,}", line) for line in table.splitlines())
    columns = ["NAME", "STATE", "SINCE", "ATTACHED", "LAST TYPED", "IN", "OUT", "SKIPPED", "INPUT"]
    assert head == columns
    cells = dict(zip(columns, row, strict=True))
    assert (cells["NAME"], cells["STATE"], cells["ATTACHED"]) == ("demo", "ONLINE", "raw")
    assert cells["LAST TYPED"].startswith("raw 0 s ago")
    assert cells["INPUT"].startswith("echo ")
    assert f"{demo.link} -> {os.readlink(demo.link)}" in details
    for kind in ("raw", "telnet"):
        assert demo.places[0][kind] in details
    assert "  raw 127.0.0.1:" in details


def test_status_tells_who_typed_last_though_he_has_left(user: User, demo: Bridge) -> None:
    def last() -> str:
        table = user.run(["ttybridge", *words("status demo", demo.directory)]).stdout
        return re.split(" {2,}", table.splitlines()[1])[4]

    with Client(demo.raw) as client:
        client.sync()
    eventually(lambda: not demo.status()["attachments"])
    assert last().startswith("raw ")
    user.run(["ttybridge", *words("send demo x --enter", demo.directory)])
    assert last().startswith("send ")


def test_status_on_a_closed_or_full_output(user: User, demo: Bridge) -> None:
    where = f"--runtime-dir {demo.directory}"
    for redirection, message in (
        (">&-", " is closed"),
        (">/dev/full", ": No space left on device"),
    ):
        done = user.run(["sh", "-c", f"ttybridge status {where} {redirection}"])
        assert (done.returncode, done.stderr) == (1, f"ttybridge: standard output{message}\n")
    done = user.run(["sh", "-c", f"ttybridge status --watch {where} | head -n 1"])
    assert (done.stdout.split()[0], done.stderr) == ("NAME", "")


# attach, in a pipe.


def test_attach_in_a_pipe(user: User, demo: Bridge) -> None:
    """`echo text | ttybridge attach demo`: with LF, which guests take for Enter, too."""
    command = ["ttybridge", *words("attach demo", demo.directory)]
    done = user.run(command, input=b"echo piped in\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\npiped in\r?\n", done.stdout)


def test_attach_into_a_pipe_that_is_closed(user: User, demo: Bridge) -> None:
    """At once, though the console is silent."""
    read, write = os.pipe()
    process = start(user, words("attach demo", demo.directory), stdin=subprocess.PIPE, stdout=write)
    os.close(write)
    demo.wait_attached()
    os.close(read)
    assert process.wait(LIMIT) == 1
    assert process.communicate()[1] == b""


# attach, at a terminal.


class Seat:
    """``ttybridge attach`` at a terminal whose settings are looked at; a context."""

    def __init__(self, user: User, directory: Path, command: str = "attach demo") -> None:
        self._master, self.terminal = pty.openpty()
        self.before = self.settings
        self.seen = b""
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self.terminal)
        self.process = start(user, words(command, directory), **ends)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.terminal)

    @property
    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.terminal)

    def type(self, data: bytes) -> None:
        os.write(self._master, data)

    def wait_for(self, wanted: bytes) -> None:
        deadline = time.monotonic() + LIMIT
        while wanted not in self.seen:
            ready, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert ready, f"no {wanted!r} in {self.seen!r}"
            self.seen += os.read(self._master, 4096)

    def wait_raw(self) -> None:
        eventually(lambda: not self.settings[3] & termios.ICANON, what="a raw terminal")

    def wait_ended(self) -> int:
        """Its exit code; its terminal is read meanwhile, as it must be."""
        eventually(self._ended, what="an end")
        return self.process.returncode

    def _ended(self) -> bool:
        ended = self.process.poll() is not None
        while select.select([self._master], [], [], 0)[0]:
            self.seen += os.read(self._master, 4096)
        return ended


@pytest.fixture
def seat(user: User, demo: Bridge) -> Iterator[Seat]:
    with Seat(user, demo.directory) as seat:
        seat.wait_for(b"^] leaves]")
        seat.wait_raw()
        yield seat


def test_attach_is_left_by_its_key(seat: Seat, demo: Bridge) -> None:
    seat.type(b"echo typed\r")
    seat.wait_for(b"\r\ntyped\r\n")
    seat.type(b"\x1d")
    assert seat.wait_ended() == 0
    seat.wait_for(b"[ttybridge: left]")
    assert seat.settings == seat.before
    eventually(lambda: not demo.status()["attachments"])


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT], ids=lambda n: n.name
)
def test_attach_restores_the_terminal_when_it_is_told_to_end(seat: Seat, number: int) -> None:
    seat.process.send_signal(number)
    assert seat.wait_ended() == 128 + number
    assert seat.settings == seat.before
    assert b"Traceback" not in seat.seen


def test_attach_ends_with_the_service(user: User, directory: Path) -> None:
    with Bridge(user, directory / "run", command="demo") as bridge:
        bridge.wait_message("ONLINE")
        with Seat(user, bridge.directory) as seat:
            seat.wait_for(b"demo$ ")
            bridge.process.kill()
            assert seat.wait_ended() == 1
            seat.wait_for(b"[ttybridge: the console has been removed, or the service has ended]")
            assert seat.settings == seat.before


def test_attach_is_left_though_the_service_hangs(seat: Seat, demo: Bridge) -> None:
    demo.process.send_signal(signal.SIGSTOP)
    try:
        seat.type(b"x" * 100)
        seat.type(b"\x1d")
        assert seat.wait_ended() == 0
        assert seat.settings == seat.before
    finally:
        demo.process.send_signal(signal.SIGCONT)


def test_who_only_looks_on_types_nothing(user: User, demo: Bridge) -> None:
    with Seat(user, demo.directory, "attach --read-only demo") as seat:
        seat.wait_for(b"^] leaves]")
        seat.wait_raw()
        refused = demo.status()["bytes"]["refused"]
        seat.type(b"reboot\r")
        with Client(demo.raw) as client:
            client.type(b"\recho shown\r")
            seat.wait_for(b"\nshown\r\n")
        seat.type(b"\x1d")
        assert seat.wait_ended() == 0
        assert b"reboot" not in seat.seen
        assert demo.status()["bytes"]["refused"] == refused


def test_a_shell_has_its_terminal_while_attach_is_stopped(
    user: User, directory: Path, demo: Bridge
) -> None:
    """By kill -TSTP, for ^Z is the guest's; dash leaves a terminal as it finds it."""
    with Terminal(user, directory, "dash -i") as terminal:
        terminal.type(f"ttybridge attach demo --runtime-dir {demo.directory}")
        terminal.keys("Enter")
        terminal.wait_for("leaves]")
        (attachment,) = eventually(lambda: demo.status()["attachments"])
        pid = int(attachment["peer"].removeprefix("pid "))
        for number in range(2):
            os.kill(pid, signal.SIGTSTP)
            terminal.wait_for(r"Stopped .*\n[$#]\s*$")
            terminal.type("clear; stty -a; fg")
            terminal.keys("Enter")
            terminal.wait_for(r"(?s) icanon .* echo .*\nttybridge attach demo")
            terminal.type(f"\recho again-{number}\r")
            terminal.wait_for(f"\nagain-{number}\n")
        terminal.keys("C-]")
        terminal.wait_for("ttybridge: left")
        terminal.type("clear; stty -a")
        terminal.keys("Enter")
        terminal.wait_for(r"(?s) icanon .* echo ")
