"""What ``run --json`` says, however late that is read: the consoles are served meanwhile."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bridge.commands.client import Client as Control
from tests.support.user import User
from tests.support.waiting import LIMIT, eventually

COUNT = 1000

# More than a pipe holds.
CONSOLES = "".join(
    f'[consoles.c{n}]\nurl = "ws://127.0.0.1:9"\npty = false\nraw = false\ntelnet = false\n'
    for n in range(COUNT)
)


@contextmanager
def running(user: User, directory: Path, stdout: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A service of many consoles, in ``directory``/run."""
    config = directory / "config.toml"
    config.write_text(CONSOLES)
    config.chmod(0o644)
    process = user.popen(
        ["ttybridge", "run", "--json", "--config", config, "--runtime-dir", directory / "run"],
        stdout=stdout,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ask(directory: Path, do: str) -> dict[str, Any]:
    eventually((directory / "run" / ".control").exists)
    with Control(directory / "run") as control:
        return control.ask(do)


def test_nobody_waits_for_who_reads_it_late(user: User, directory: Path) -> None:
    with running(user, directory, subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(ask(directory, "status")["consoles"]) == COUNT
        ask(directory, "exec")  # what is not read yet is the next process's to say
        seen = [json.loads(process.stdout.readline())["name"] for _ in range(COUNT)]
        assert seen == [f"c{n}" for n in range(COUNT)]
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b""
        assert process.wait(LIMIT) == 0


def test_it_may_end_unread(user: User, directory: Path) -> None:
    with running(user, directory, subprocess.PIPE) as process:
        ask(directory, "status")
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


def test_a_file_gets_all_of_it(user: User, directory: Path) -> None:
    file = directory / "places"
    with file.open("wb") as stream, running(user, directory, stream) as process:
        eventually(lambda: file.read_bytes().count(b"\n") == COUNT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    assert file.stat().st_size > 1 << 16
