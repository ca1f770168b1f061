"""What ``run --json`` says, however late that is read: the consoles are served meanwhile."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

from bridge.commands.client import Client as Control
from tests.support.user import User
from tests.support.waiting import eventually

COUNT = 1000

# More than a pipe holds.
CONSOLES = "".join(
    f'[consoles.c{n}]\nurl = "ws://127.0.0.1:9"\npty = false\nraw = false\ntelnet = false\n'
    for n in range(COUNT)
)


def test_nobody_waits_for_who_reads_it_late(user: User, directory: Path) -> None:
    config, run = directory / "config.toml", directory / "run"
    config.write_text(CONSOLES)
    config.chmod(0o644)
    process = user.popen(
        ["ttybridge", "run", "--json", "--config", config, "--runtime-dir", run],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process, process.stdout as stream:
        eventually((run / ".control").exists)
        with Control(run) as control:
            control.socket.settimeout(30)
            assert len(control.ask("status")["consoles"]) == COUNT
        # What is not read yet is the next process's to say.
        with Control(run) as control:
            control.socket.settimeout(30)
            control.ask("exec")
        seen = [json.loads(stream.readline())["name"] for _ in range(COUNT)]
        assert seen == [f"c{n}" for n in range(COUNT)]
        process.send_signal(signal.SIGTERM)
        assert stream.read() == b""
        assert process.wait(20) == 0


def test_it_may_end_unread(user: User, directory: Path) -> None:
    config, run = directory / "config.toml", directory / "run"
    config.write_text(CONSOLES)
    config.chmod(0o644)
    process = user.popen(
        ["ttybridge", "run", "--json", "--config", config, "--runtime-dir", run],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    with process:
        assert b"WAITING" in process.stderr.readline()
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        drain.join()


def test_a_file_gets_all_of_it(user: User, directory: Path) -> None:
    config, run, file = directory / "config.toml", directory / "run", directory / "places"
    config.write_text(CONSOLES)
    config.chmod(0o644)
    with file.open("wb") as stream:
        process = user.popen(
            ["ttybridge", "run", "--json", "--config", config, "--runtime-dir", run],
            stdout=stream,
            stderr=subprocess.DEVNULL,
        )
    eventually(lambda: file.read_bytes().count(b"\n") == COUNT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert os.path.getsize(file) > 1 << 16
