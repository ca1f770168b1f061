"""The runtime directory: the links that users open, the lock, stale leavings.

A link ``NAME -> /dev/pts/N`` that outlives its service is dangerous: the kernel gives N to
the next terminal, and who opens the link reads and types there.  So links are trusted
only while the lock is held, removed at the end, and swept at the next start, under the
lock.  Imports nothing heavy: ``ttybridge path`` is in scripts.
"""

import errno
import fcntl
import logging
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from bridge.base.errors import StartError

log = logging.getLogger("ttybridge")

LOCK = ".lock"
UNIX = ".unix"
CONTROL = ".control"


def find_link(directory: Path, name: str) -> Path | None:
    """The link of console ``name`` if a service is there to answer for it."""
    link = directory / name
    ours = "/" not in name and _leads_to(link) is not None
    return link if ours and holder(directory) is not None else None


def _leads_to(link: Path) -> str | None:
    """The PTY that ``link`` names, if it is one of a service's links at all."""
    try:
        target = os.readlink(link)
    except OSError:  # no link; or one that we can't see
        return None
    return target if target.startswith("/dev/pts/") else None


def holder(directory: Path) -> int | None:
    """The pid of the service that holds the lock of ``directory``, None if there is none.

    Read from /proc/locks: to try for the lock would shut out a service that starts now.
    """
    try:
        lock = directory / LOCK
        pid, inode = lock.read_text().strip(), lock.stat().st_ino
        for row in Path("/proc/locks").read_text().splitlines():
            # "1: FLOCK  ADVISORY  WRITE 708 00:2f:1234 0 EOF" (proc(5))
            field = row.split()
            if field[1] == "FLOCK" and field[4] == pid and field[5].endswith(f":{inode}"):
                return int(pid)
    except (OSError, ValueError):  # ValueError: there is something else in that file
        pass
    return None


class RuntimeDirectory:
    """The directory, made, locked and swept; or, with ``lock``, taken over as it is.

    With ``inherited`` somebody may listen yet at the sockets there, who then takes them over.
    """

    def __init__(self, path: Path, lock: int | None = None, *, inherited: bool = False) -> None:
        self.path = path
        self._handed_over = lock
        self._inherited = inherited

    def __enter__(self) -> Self:
        if self._handed_over is not None:
            self._lock = _Lock(self._handed_over)
            self._stay()
            return self
        self._make()
        self._lock = self._take_lock()
        self._sweep()
        return self

    @property
    def lock(self) -> int:
        """The descriptor that holds the directory, to be handed over."""
        return self._lock.fd

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def link(self, name: str) -> "Link":
        """The link that users open for console ``name``; it does not exist yet."""
        return Link(self.path / name)

    def unix_path(self, name: str) -> str:
        """The path for the Unix socket of console ``name``; its directory is there."""
        directory = self.path / UNIX
        directory.mkdir(mode=0o700, exist_ok=True)
        return str(directory / name)

    @property
    def control(self) -> str:
        """The path of the control socket; ``_sweep`` has removed another's."""
        return str(self.path / CONTROL)

    def remove_control(self) -> None:
        """Where the directory was removed and made anew, it is another service's."""
        if self._is_there():
            (self.path / CONTROL).unlink(missing_ok=True)

    @property
    def obstacle(self) -> str:
        """Why nobody can go on in it; empty if somebody can."""
        return "" if self._is_there() else f"{self.path} has been removed; start it anew"

    def _is_there(self) -> bool:
        """Our lock is the one that others meet at ``path``."""
        try:
            there = (self.path / LOCK).stat()
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._lock.fd))

    def _stay(self) -> None:
        """Be where the lock is, though another directory may be the default one by now."""
        if not self._is_there():
            self.path = Path(os.readlink(f"/proc/self/fd/{self._lock.fd}")).parent

    def _make(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.path.stat()
        except OSError as error:
            raise StartError(
                f"runtime directory {self.path}: {error.strerror};"
                " name another with --runtime-dir or XDG_RUNTIME_DIR"
            ) from error
        if status.st_uid != os.getuid():
            raise StartError(
                f"runtime directory {self.path} belongs to uid {status.st_uid}; it must be yours"
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StartError(
                f"runtime directory {self.path} is writable by others (mode"
                f" {stat.S_IMODE(status.st_mode):04o}); chmod go-w it"
            )

    def _take_lock(self) -> "_Lock":
        try:
            return _Lock.take(self.path / LOCK)
        except BlockingIOError:
            pid = holder(self.path)
            raise StartError(
                f"a ttybridge already runs with {self.path}{f' (pid {pid})' if pid else ''};"
                " add a console to it with 'ttybridge add NAME URL', or give this one"
                " another --runtime-dir"
            ) from None
        except OSError as error:
            raise StartError(f"runtime directory {self.path}: {error.strerror}") from error

    def _sweep(self) -> None:
        """Remove the links and sockets of a service that was killed."""
        try:
            for entry in self.path.iterdir():
                if _leads_to(entry) is not None:
                    entry.unlink()
            if not self._inherited:
                self.remove_control()
                self.sweep_sockets()
        except OSError as error:
            raise StartError(f"runtime directory {self.path}: {error.strerror}") from error

    def sweep_sockets(self, spared: Collection[str] = ()) -> None:
        """Remove consoles' Unix sockets, but for those of the consoles ``spared``."""
        for entry in (self.path / UNIX).glob("*"):
            if entry.is_socket() and entry.name not in spared:
                entry.unlink()


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """A name of the Unix socket ``path`` for bind(2) and connect(2), which take 107 bytes.

    A longer one is reached by way of its directory's descriptor (proc(5)).
    """
    if len(os.fsencode(path)) <= 107:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


class Link:
    """A symbolic link to a PTY that changes in one step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._target: str | None = None

    def point_to(self, target: str) -> None:
        """Raises OSError, and where something else of the name is there."""
        if os.path.lexists(self.path) and _leads_to(self.path) is None:
            # The directory may be any; what is in it may be a disk image called as its VM.
            raise FileExistsError(
                errno.EEXIST, f"{self.path} is there, and no link of a ttybridge", str(self.path)
            )
        self._target = target
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.rename(self.path)

    def remove(self) -> None:
        """Unless it is another's by now."""
        if self._target is None or _leads_to(self.path) != self._target:
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: not removed: %s", self.path, error.strerror)


class _Lock:
    """flock(2) on a file that holds our pid; the kernel lets go when we die, however."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, path: Path) -> "_Lock":
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.write(fd, f"{os.getpid()}\n".encode())
        except OSError:
            os.close(fd)
            raise
        return cls(fd)

    def close(self) -> None:
        os.close(self.fd)
