"""The growing file of one console's log: opened, appended to, rotated; and the compressing.

All of it blocks as the disk pleases, for ever on a hung NFS, and so belongs in a thread;
one thread at a time.  Every failure is an OSError whose ``strerror`` can be shown, leaves
the file as it was and can be tried again: ``appended`` counts what is in the file.
"""

import errno
import fcntl
import gzip
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from bridge.logs import segments

# zlib's fastest: 190 MB/s of processor time for log text, where its default does 44; the
# result is a fifth larger.
_LEVEL = 1

_CHUNK = 256 * 1024


class LogFile:
    """See the module.  Others may delete, move or truncate the file at any time."""

    def __init__(
        self, directory: Path, name: str, *, size: int, keep: int, line_open: bool = False
    ) -> None:
        self.path = segments.current(directory, name)
        self.size = size
        self.keep = keep
        self.appended = 0
        """Bytes of ``append``'s data that are in a file, in all."""
        self.rotations = 0
        self._directory = directory
        self._name = name
        self._fd = -1
        self._length = 0
        self._identity = (0, 0)
        self.line_open = line_open
        """The last byte appended was no LF."""
        self._owed = b""  # ours, to be written before the data

    def append(self, data: bytes, more: bytes) -> None:
        """Append ``data``; it starts with ``more`` where it goes on with a line of another file.

        Raises OSError when the disk takes no more; ``appended`` tells how far it came.
        """
        while data:
            if not self._is_open():
                self._open(more)
                continue  # it may have been renamed before it was locked
            if not (piece := self._fitting(data)):
                self._rotate()
                continue
            written = self._write(piece)
            data = data[written:]
            self.appended += written

    def close(self) -> None:
        """Let the file go, and its lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _is_open(self) -> bool:
        """Whether we have what stands under the name; moved or deleted, it is let go."""
        if self._fd < 0:
            return False
        with suppress(FileNotFoundError):
            status = os.stat(self.path, follow_symlinks=False)
            if (status.st_dev, status.st_ino) == self._identity:
                self._length = status.st_size
                return True
        self.close()
        return False

    def _open(self, more: bytes) -> None:
        _make_private(self._directory)
        # NONBLOCK: a FIFO of that name must not hang us.
        mode = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(self.path, mode, 0o600)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "is a symbolic link") from None
            raise
        try:
            status = _claim(fd)
            if _at_line_start(fd):
                self._owed = more if self.line_open else b""
            else:  # ours, handed over; or of one that was killed, which stays as it is
                self._owed = b"" if self.line_open else b"\n"
        except OSError:
            os.close(fd)
            raise
        self._fd, self._identity = fd, (status.st_dev, status.st_ino)

    def _fitting(self, data: bytes) -> bytes:
        """So much of ``data`` as the file takes before it is rotated, best at a line's end."""
        room = self.size - self._length - len(self._owed)
        if len(data) <= room:
            return data
        if self.line_open and data.startswith(b"\n"):
            return data[:1]
        if line_end := data.rfind(b"\n", 0, max(room, 0)) + 1:
            return data[:line_end]
        if self._length and not self._owed:
            return b""
        return data[: data.find(b"\n") + 1] or data  # a line longer than a whole file may be

    def _write(self, data: bytes) -> int:
        """Write some of ``data`` after what is owed; return how much of it."""
        written = os.write(self._fd, self._owed + data)
        self._length += written
        owed = len(self._owed)
        self._owed = self._owed[written:]
        if (written := max(written - owed, 0)) > 0:
            self.line_open = data[written - 1 : written] != b"\n"
        return written

    def _rotate(self) -> None:
        if not _at_line_start(self._fd):
            os.write(self._fd, b"\n")
        number = segments.following(self._directory, self._name)
        os.rename(self.path, segments.numbered(self._directory, self._name, number))
        self.close()  # only now: until then the lock says that it is ours
        self.rotations += 1
        old = segments.rotated(self._directory, self._name)
        for segment in old[: max(len(old) - self.keep, 0)]:
            segment.remove()


def _at_line_start(fd: int) -> bool:
    length = os.fstat(fd).st_size
    return not length or os.pread(fd, 1, length - 1) == b"\n"


def _claim(fd: int) -> os.stat_result:
    """Make sure that the file is ours alone to write and to read."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if status.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"belongs to uid {status.st_uid}; it must be yours")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another ttybridge writes to it") from None
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP}:  # file systems without locks
            raise
    if status.st_mode & 0o077:
        os.fchmod(fd, 0o600)  # passwords are typed on consoles
    return status


def _make_private(directory: Path) -> None:
    for path in (*reversed(directory.parents), directory):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(errno.EPERM, "the directory is not yours, or others may write to it")


def tidy(directory: Path, name: str) -> None:
    """Compress what was rotated, and remove what a crash left; raises OSError.

    For whoever holds the log alone.  Whatever the moment of a crash, a whole copy of each
    text is there, and ``segments`` sees exactly one.
    """
    for leaving in directory.glob(f".{name}.log.[0-9]*{segments.COMPRESSED}"):
        leaving.unlink(missing_ok=True)
    for segment in segments.rotated(directory, name):
        if not segment.compressed:
            with suppress(FileNotFoundError):  # so old by now that it was deleted
                _compress(segment.path)
        else:
            segment.plain.unlink(missing_ok=True)


def _compress(path: Path) -> None:
    target = path.with_name(path.name + segments.COMPRESSED)
    temporary = path.with_name(f".{target.name}")  # no console's name begins with a dot
    mode = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with path.open("rb") as plain:
        try:
            with os.fdopen(os.open(temporary, mode, 0o600), "wb") as file:
                with gzip.GzipFile("", "wb", _LEVEL, file) as compressed:
                    shutil.copyfileobj(plain, compressed, _CHUNK)
                file.flush()
                status = os.fstat(plain.fileno())
                os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
                os.fsync(file.fileno())  # before the other goes: the power may fail, too
            os.rename(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    path.unlink(missing_ok=True)
