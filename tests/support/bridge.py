"""The service as a process, started and watched as a user would."""

import json
import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

from bridge.commands.client import Client
from tests.support.user import User
from tests.support.waiting import LIMIT, eventually


class Bridge:
    """``ttybridge run`` or ``demo`` in a runtime directory of its own; a context."""

    def __init__(self, user: User, directory: Path, *arguments: str, command: str = "run") -> None:
        self.user = user
        self.directory = directory
        self._lines: list[str] = []
        self._news = threading.Condition()
        self.process = user.popen(
            ["ttybridge", command, *arguments, "--json", "--runtime-dir", directory],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read_messages, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        if kind is not None:
            print("messages of the bridge:", *self.messages, sep="\n  ")
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the service and return its exit code."""
        self.process.send_signal(number)
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self._reader.join(5)

    @property
    def places(self) -> list[dict[str, Any]]:
        """What ``--json`` announced, one dictionary a console; waits for it."""
        if not hasattr(self, "_places"):
            assert self.process.stdout is not None
            first = self.process.stdout.readline()
            assert first, f"the bridge did not start: {self.messages}"
            self._places = [json.loads(first)]
        return self._places

    @property
    def link(self) -> Path:
        return Path(self.places[0]["link"])

    @property
    def raw(self) -> tuple[str, int]:
        return self._port("raw")

    @property
    def telnet(self) -> tuple[str, int]:
        return self._port("telnet")

    def _port(self, kind: str) -> tuple[str, int]:
        host, _, port = self.places[0][kind].rpartition(":")
        return host, int(port)

    @property
    def messages(self) -> list[str]:
        with self._news:
            return list(self._lines)

    def wait_message(self, pattern: str, *, after: int = 0, limit: float = LIMIT) -> int:
        """Wait for a line on stderr that matches; return how many lines there are then."""
        with self._news:

            def seen() -> int:
                matches = (
                    i
                    for i, line in enumerate(self._lines)
                    if i >= after and re.search(pattern, line)
                )
                return next(matches, -1) + 1

            found = self._news.wait_for(seen, limit)
            assert found, f"no message {pattern!r} within {limit:g} s in {self._lines}"
            return found

    def status(self, name: str | None = None) -> dict[str, Any]:
        """What the control socket tells of a console, the first one without a ``name``."""
        with Client(self.directory) as client:
            which = {"name": name} if name is not None else {}
            console: dict[str, Any] = client.ask("status", **which)["consoles"][0]
            return console

    def wait_attached(self, count: int = 1) -> None:
        """Wait until so many are attached: a client's connect returns before it is."""
        eventually(lambda: len(self.status()["attachments"]) >= count, what="attachments")

    def cpu_seconds(self) -> float:
        """User and system time so far (proc(5), stat)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def _read_messages(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._news:
                    self._lines.append(line.decode().rstrip("\n"))
                    self._news.notify_all()
