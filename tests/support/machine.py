"""A QEMU with the command line that a test wants; a stopped guest, and nobody at its QMP."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bridge.settings.url import UnixAddress
from bridge.vms.qmp import Command, QmpError, T
from bridge.vms.qmpsync import QmpSession
from tests.support.user import User
from tests.support.waiting import eventually

BARE = ["-accel", "tcg", "-nodefaults", "-display", "none", "-m", "16", "-S"]


class Machine:
    """A context."""

    def __init__(self, user: User, qmp: Path, words: Sequence[str]) -> None:
        self.qmp_path = qmp
        self.words = ["qemu-system-x86_64", *BARE, "-qmp", f"unix:{qmp},server=on,wait=off", *words]
        self.process = user.popen(self.words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        eventually(self._is_up, what="QMP of the machine")

    def _is_up(self) -> bool:
        """QEMU opens its sockets in turn, and the QMP socket is served when all are open."""
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
        try:
            with QmpSession(UnixAddress(str(self.qmp_path))):
                return True
        except QmpError:
            return False

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, command: Command[T]) -> T:
        with QmpSession(UnixAddress(str(self.qmp_path))) as session:
            return session.execute(command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.qmp_path.unlink(missing_ok=True)
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def machine(user: User, directory: Path, *words: str) -> Iterator[Machine]:
    started = Machine(user, directory / "qmp", words)
    try:
        yield started
    finally:
        started.kill()
