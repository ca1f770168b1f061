"""The QEMU processes that this user may see, from /proc; and who holds a socket.

``look`` is cheap enough for twice a second: it lists /proc (0.2 to 0.6 ms with 400 processes)
only when a process has come, reads its command line when it is new, and in turn those of
the others, as a shell may become a QEMU by exec.  The netlink proc connector would tell at once, but only root.
"""

import mmap
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass

# The name with or without what distributions put around it: `.qemu-system-x86_64-wrapped`.
_QEMU = re.compile(r"\.?(?:qemu-system-[^/]+|qemu-kvm[^/]*|kvm|qemu)")

_OPTIONS = frozenset(
    {"-chardev", "--chardev", "-serial", "-device", "-machine", "-M", "-readconfig"}
)

# /proc is listed when a process has come, and each so many looks all the same: some
# containers invent the number that tells.
LISTED = 10

# For how many looks a new process is looked at each time: it is about to exec.
YOUNG = 8

# In how many looks the command lines of all others are read once more.  A file of /proc
# costs 10 to 20 microseconds when its turn comes so seldom that no cache has it.
ROUND = 32

_MAX_CONFIG = 1 << 20

# No machine's command line is longer; whoever makes one may want to keep us busy.
_MAX_LINE, _MAX_WORDS = 1 << 18, 4096


@dataclass(frozen=True, slots=True)
class Process:
    """A QEMU.  Pids come again: ``started`` (clock ticks since boot) tells them apart."""

    pid: int
    started: int
    argv: tuple[str, ...]


class Processes:
    """Knows what it has seen; ``look`` for the QEMUs that run now."""

    def __init__(self) -> None:
        self._entries: set[str] = set()  # of /proc, not all of them processes
        self._pids: set[str] = set()
        self._qemus: dict[str, Process] = {}
        self._young: dict[str, int] = {}  # pid, looks left
        self._newest = b""
        self._unlisted = 0  # looks since the list was read
        self._round: list[str] = []  # whose turn is still to come

    def look(self) -> list[Process]:
        self._list_new()
        self._qemus = {
            entry: qemu for entry, qemu in self._qemus.items() if _started(entry) == qemu.started
        }
        for entry in self._due():
            if entry not in self._qemus and (qemu := _qemu(entry)):
                self._qemus[entry] = qemu
        return list(self._qemus.values())

    def _list_new(self) -> None:
        """Find the processes that have come since the last look, if any have."""
        newest = _newest()
        self._unlisted += 1
        if newest == self._newest and self._unlisted < LISTED:
            return
        # Read before the list, so that one that comes in between is found next time.
        self._newest, self._unlisted = newest, 0
        entries = set(os.listdir("/proc"))
        new = {entry for entry in entries - self._entries if entry.isdecimal()}
        gone = self._entries - entries
        self._entries = entries
        self._pids = self._pids - gone | new
        for entry in gone:
            self._young.pop(entry, None)
        self._young |= dict.fromkeys(new, YOUNG)

    def _due(self) -> set[str]:
        """Those whose command line is to be read in this look."""
        due = set(self._young)
        self._young = {entry: left - 1 for entry, left in self._young.items() if left > 1}
        if not self._round:
            self._round = list(self._pids)
        share = len(self._pids) // ROUND + 1
        due.update(self._round[-share:])
        del self._round[-share:]
        return due


def _newest() -> bytes:
    """The pid that was given out last, to a process or a thread (proc(5), loadavg)."""
    return _read("/proc/loadavg").rpartition(b" ")[2]


def _qemu(entry: str) -> Process | None:
    line = _read(f"/proc/{entry}/cmdline")
    if not line:  # a kernel thread, a zombie, or gone
        return None
    if len(line) > _MAX_LINE or line.count(b"\0") > _MAX_WORDS:
        return None
    argv = tuple(os.fsdecode(word) for word in line.removesuffix(b"\0").split(b"\0"))
    name = argv[0].rpartition("/")[2]
    # `exec -a vm1 qemu-system-...`: asked for only where the words look like it.
    if not _QEMU.fullmatch(name) and not _OPTIONS.isdisjoint(argv):
        name = _program(entry)
    if not _QEMU.fullmatch(name):
        return None
    started = _started(entry)
    return None if started is None else Process(int(entry), started, argv)


def _program(entry: str) -> str:
    """The name of the executable; "" where it may not be seen (another user's)."""
    try:
        path = os.readlink(f"/proc/{entry}/exe")
    except OSError:
        return ""
    return path.removesuffix(" (deleted)").rpartition("/")[2]


def _started(entry: str) -> int | None:
    """When the process began; None if it has ended, though its parent may not know yet."""
    # The name, in parentheses, may hold anything; state is field 3, starttime 22 (proc(5)).
    fields = _read(f"/proc/{entry}/stat").rpartition(b")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in {b"Z", b"X"} else None


def descriptors_of(pid: int) -> tuple[str, ...] | None:
    """The numbers of its descriptors: a cheap way to see that something was opened or closed."""
    try:
        return tuple(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None


def sockets_of(pid: int) -> dict[int, int] | None:
    """Descriptor to inode of each socket of a process; None where we may not look."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return None
    sockets = {}
    for descriptor in descriptors:
        if inode := _socket_inode(f"/proc/{pid}/fd/{descriptor}"):
            sockets[int(descriptor)] = inode
    return dict(sorted(sockets.items()))


def holders(inodes: Collection[int]) -> dict[int, tuple[int, str]]:
    """Pid and name of a process that has the socket, for each that can be found.

    Looks at each descriptor of each process that we may see into: some milliseconds.
    """
    found: dict[int, tuple[int, str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and len(found) < len(inodes):
            sockets = sockets_of(int(entry)) or {}
            for inode in set(sockets.values()) & set(inodes):
                found.setdefault(inode, (int(entry), name_of(int(entry))))
    return found


def name_of(pid: int) -> str:
    return os.fsdecode(_read(f"/proc/{pid}/comm").removesuffix(b"\n"))


def directory_of(pid: int) -> str | None:
    """Where its relative paths begin; None where we may not look."""
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def read_file_of(pid: int, path: str) -> str | None:
    """The text of a file that a process of ours was told to read; None if we can't read it.

    Anybody can name anything in a command line.  To open a terminal could make it ours, a
    FIFO would wait for its writer, and a device does what it does; to open with O_PATH
    only looks (open(2)).
    """
    directory = directory_of(pid)
    if directory is None:
        return None
    try:
        place = os.open(os.path.join(directory, path), os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):  # ValueError: a NUL
        return None
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return None
        # Not blocking: another's lease on it would keep us waiting (fcntl(2), F_SETLEASE).
        opened = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(opened, "rb") as file:
            return file.read(_MAX_CONFIG).decode(errors="replace")
    except OSError:
        return None
    finally:
        os.close(place)


def version_of(pid: int) -> str | None:
    """The version of the QEMU that runs as ``pid``, from its executable; None if not found.

    Read from the text that ``--version`` would print, which is in the file as a whole.
    Nothing is run: the service has no children, and root must not run what somebody
    else's process happens to be.  /proc/PID/exe is the file that runs, even if another is
    at its path by now.
    """
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            status = os.fstat(file.fileno())
            key = (status.st_dev, status.st_ino, status.st_mtime_ns)
            if key not in _versions:
                _versions[key] = _find_version(file.fileno())
            return _versions[key]
    except (OSError, ValueError):  # ValueError: an empty file can't be mapped
        return None


_versions: dict[tuple[int, int, int], str | None] = {}


def _find_version(descriptor: int) -> str | None:
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as image:
        at = image.find(_VERSION)
        if at < 0:
            return None
        text = image[at + len(_VERSION) : at + len(_VERSION) + 200]
    return text.partition(b"\n")[0].partition(b"\0")[0].decode(errors="replace")


_VERSION = b"QEMU emulator version "


def _socket_inode(link: str) -> int | None:
    try:
        target = os.readlink(link)
    except OSError:
        return None
    return int(target[8:-1]) if target.startswith("socket:[") else None


def _read(path: str) -> bytes:
    """A file of /proc, b"" if it is gone; with the bare calls, which cost half of open()."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        data = piece = os.read(descriptor, _PIECE)
        while len(piece) == _PIECE:
            piece = os.read(descriptor, _PIECE)
            data += piece
    except OSError:  # ESRCH: it ended between the two calls
        return b""
    else:
        return data
    finally:
        os.close(descriptor)


_PIECE = 1 << 15
