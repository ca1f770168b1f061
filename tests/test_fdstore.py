"""The descriptor store, with the manager's end played by a real socket; and the record.

With the real systemd: test_systemd_store.
"""

import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from bridge.systemd.fdstore import Rank, Record, Store
from bridge.systemd.notify import NotifySocket, Silence
from tests.support.notified import Notified


class Setup:
    """A store whose manager keeps ``limit`` descriptors."""

    def __init__(self, directory: Path, limit: int | None = 1000) -> None:
        self.manager = Notified(directory / "notify", limit or 0)
        self.notifier = NotifySocket(str(directory / "notify"))
        self.warnings: list[str] = []
        self.store = Store(self.notifier, limit, self.warnings.append)

    def close(self) -> None:
        self.notifier.close()
        self.manager.__exit__()
        (Path(self.manager.address)).unlink()

    def kept(self) -> dict[str, int]:
        """Names and inodes of what the manager keeps, after it has read all."""
        self.manager.read_all()
        kept = {name: os.fstat(fd).st_ino for name, fd in self.manager.store}
        assert len(kept) == len(self.manager.store), "a name twice"
        assert not self.manager.refused
        return kept


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    setup = Setup(tmp_path)
    yield setup
    setup.close()


def memfd() -> int:
    return os.memfd_create("test")


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_what_is_put_is_kept_until_removed(setup: Setup) -> None:
    first, second = memfd(), memfd()
    setup.store.put("a", first)
    setup.store.put("b", second)
    assert setup.kept() == {"a": inode(first), "b": inode(second)}
    setup.store.put("a", first)
    assert setup.manager.read_all() == []  # as before
    setup.store.remove("a")
    setup.store.remove("a")
    setup.store.remove("never there")
    assert setup.kept() == {"b": inode(second)}
    os.close(first)
    os.close(second)


def test_an_idle_pty_is_not_to_be_polled(setup: Setup) -> None:
    """Its HUP would have it thrown out."""
    fd = memfd()
    setup.store.put("a", fd)
    assert setup.manager.read_all() == [["FDSTORE=1", "FDNAME=a", "FDPOLL=0"]]
    os.close(fd)


def test_the_number_may_be_another_file_later(setup: Setup) -> None:
    fd = memfd()
    setup.store.put("a", fd)
    setup.store.remove("a")
    os.close(fd)
    again = memfd()
    assert again == fd
    setup.store.put("a", again)
    assert setup.kept() == {"a": inode(again)}
    os.close(again)


def test_another_file_of_the_same_name_takes_its_place(setup: Setup) -> None:
    first, second = memfd(), memfd()
    setup.store.put("a", first)
    setup.store.put("a", second)
    assert setup.kept() == {"a": inode(second)}
    os.close(first)
    os.close(second)


@pytest.mark.parametrize("name", ["", "a:b", "x" * 13, "a b", "\n"])
def test_names_are_short_and_plain(setup: Setup, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        setup.store.put(name, 0)


def test_beyond_the_limit_clients_yield(tmp_path: Path) -> None:
    setup = Setup(tmp_path, limit=3)
    store, fds = setup.store, [memfd() for _ in range(6)]
    for name, fd in zip("abc", fds, strict=False):
        store.put(name, fd, Rank.CLIENT)
    store.put("d", fds[3], Rank.CLIENT)
    assert set(setup.kept()) == {"a", "b", "c"}
    assert store.left_out == 1
    (warning,) = setup.warnings
    assert warning.startswith("systemd keeps 3 descriptors for us (FileDescriptorStoreMax=")
    store.put("pty", fds[4])
    store.put("up", fds[5])
    assert set(setup.kept()) == {"a", "pty", "up"}
    store.remove("pty")
    assert set(setup.kept()) == {"a", "up", "d"}
    store.remove("a")
    store.remove("b")
    assert set(setup.kept()) == {"up", "d", "c"}
    assert len(setup.warnings) == 1
    assert store.left_out == 0
    for fd in fds:
        os.close(fd)
    setup.close()


def test_beyond_the_limit_clients_yield_before_listeners(tmp_path: Path) -> None:
    setup = Setup(tmp_path, limit=2)
    fds = [memfd() for _ in range(4)]
    setup.store.put("l1", fds[0], Rank.LISTENER)
    setup.store.put("c2", fds[1], Rank.CLIENT)
    setup.store.put("p3", fds[2])
    assert set(setup.kept()) == {"l1", "p3"}
    setup.store.put("u4", fds[3])
    assert set(setup.kept()) == {"p3", "u4"}
    setup.store.remove("p3")
    assert set(setup.kept()) == {"u4", "l1"}
    for fd in fds:
        os.close(fd)
    setup.close()


@pytest.mark.parametrize(("limit", "told"), [(0, 1), (None, 0)])
def test_without_a_store_nothing_is_sent(tmp_path: Path, limit: int | None, told: int) -> None:
    setup = Setup(tmp_path, limit=limit)
    setup.store.put("a", 0)
    assert setup.manager.read_all() == []
    assert len(setup.warnings) == told
    setup.close()


def test_half_of_the_open_files_may_be_stored(tmp_path: Path) -> None:
    """systemd could not start a process with a store beyond its limit, and would lose it."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
        "from bridge.systemd.fdstore import Store; from bridge.systemd.notify import Silence;"
        "store = Store(Silence(), 5000, print);"
        "[store.put(str(i), 0) for i in range(40)]; print(store.left_out)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("systemd keeps 32 descriptors")
    assert shown.stdout.endswith("\n8\n")


def test_what_comes_back_is_there_already(setup: Setup) -> None:
    fds = {name: memfd() for name in ("state", "a", "b")}
    for name, fd in fds.items():
        setup.store.put(name, fd)
    setup.kept()
    again = Store(setup.notifier, 1000, setup.warnings.append)
    assert again.adopt(fds.items()) == fds
    again.put("a", fds["a"])
    again.put("state", fds["state"])
    assert setup.manager.read_all() == []
    again.remove("b")
    assert set(setup.kept()) == {"state", "a"}
    for fd in fds.values():
        os.close(fd)


def test_of_two_of_one_name_the_newer_is_taken(setup: Setup) -> None:
    newer, older = memfd(), memfd()
    assert setup.store.adopt([("a", newer), ("a", older)]) == {"a": newer}
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(older)
    os.close(newer)


async def test_more_than_the_socket_holds_is_told_by_and_by(setup: Setup) -> None:
    """As the manager reads; and flush returns when it has read everything."""
    fds = [memfd() for _ in range(200)]
    while setup.notifier.send("X=1"):
        pass
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.store.run)
        for i, fd in enumerate(fds):
            setup.store.put(str(i), fd)
        nursery.start_soon(setup.store.flush)
        await wait_all_tasks_blocked()
        assert setup.manager.store == []
        nursery.start_soon(setup.manager.serve)
        await setup.store.flush()
        assert ["BARRIER=1"] in setup.manager.messages
        assert len(setup.kept()) == len(fds)
        for i in range(0, len(fds), 2):
            setup.store.remove(str(i))
        await setup.store.flush()
        assert len(setup.kept()) == len(fds) / 2
        nursery.cancel_scope.cancel()
    for fd in fds:
        os.close(fd)


async def test_without_a_manager_flush_returns_at_once() -> None:
    store = Store(Silence(), None, print)
    store.put("a", 0)
    store.remove("a")
    with trio.fail_after(5):
        await store.flush()


_steps = st.lists(
    st.tuples(st.sampled_from(["put", "client", "remove", "read"]), st.integers(0, 7)),
    max_size=60,
)


@given(_steps, st.integers(0, 5))
def test_whatever_is_wished_the_manager_has_it_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], limit: int
) -> None:
    """Never more than the limit, never one twice, clients only where nobody else waits."""
    setup = Setup(tmp_path_factory.mktemp("store"), limit)
    open_fds: dict[str, tuple[int, Rank]] = {}
    for step, number in steps:
        name = str(number)
        if step == "read":
            setup.manager.read()
            continue
        setup.store.remove(name)
        if name in open_fds:
            os.close(open_fds.pop(name)[0])
        if step != "remove":
            rank = Rank.VITAL if step == "put" else Rank.CLIENT
            open_fds[name] = memfd(), rank
            setup.store.put(name, open_fds[name][0], rank)
    while setup.manager.read() or not setup.store._settle():  # noqa: SLF001
        pass
    kept = setup.kept()
    assert len(kept) == min(limit, len(open_fds))
    assert kept.items() <= {name: inode(fd) for name, (fd, _) in open_fds.items()}.items()
    vital = {name for name, (_, rank) in open_fds.items() if rank is Rank.VITAL}
    assert vital <= set(kept) or set(kept) <= vital
    for fd, _ in open_fds.values():
        os.close(fd)
    setup.close()


def test_a_record_is_read_back() -> None:
    record = Record()
    assert record.read() == b""
    again = Record(os.dup(record.fd))
    for size in (5, 0, 4096, 100_000, 1, 4095, 5000, 5000, 5001):
        data = random.randbytes(size)
        record.write(data)
        assert record.read() == data
        assert Record(os.dup(record.fd)).read() == data
    assert os.fstat(record.fd).st_size < 4096 + 4 * 5001
    # Whoever goes on writes beside what is there, too.
    again.read()
    again.write(b"next")
    assert record.read() == b"next"


def test_what_is_no_record_is_empty() -> None:
    fd = memfd()
    for garbage in (b"x", b"x" * 16, b"\0" * 5000, b"\xff" * 5000):
        os.truncate(fd, 0)
        os.pwrite(fd, garbage, 0)
        assert Record(os.dup(fd)).read() == b""
    os.close(fd)


def test_a_record_that_finds_no_room_is_the_old_one() -> None:
    record = Record()
    record.write(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            record.write(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert record.read() == Record(os.dup(record.fd)).read() == b"old"
    record.write(b"new")
    assert record.read() == b"new"


WRITER = """
import sys
from bridge.systemd.fdstore import Record
record = Record(int(sys.argv[1]))
print("go", flush=True)
number = 0
while True:
    number += 1
    record.write(b"%d " % number * (50_000 + number % 7 * 1000))
"""


def test_a_record_of_one_who_was_killed_is_whole(repetitions: int) -> None:
    for _ in range(repetitions):
        record = Record()
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(record.fd)],
            stdout=subprocess.PIPE,
            pass_fds=[record.fd],
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        while not record.read():
            pass
        writer.kill()
        writer.communicate()
        words = Record(record.fd).read().split()
        number = int(words[0])
        assert words == [b"%d" % number] * (50_000 + number % 7 * 1000)
        record.close()
