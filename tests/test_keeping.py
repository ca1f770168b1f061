"""What is kept and what it means, with systemd's end of the store played; the real one: test_systemd_store."""

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bridge.base.handover import Bag, Record, RecordError, Role
from bridge.systemd.fdstore import RECORD
from bridge.systemd.keeping import StoreKeeper
from bridge.systemd.notify import NotifySocket
from tests.support.notified import Notified


class Setup:
    """A keeper, the manager that it tells, and a connection to a QEMU."""

    def __init__(self, directory: Path) -> None:
        self.manager = Notified(directory / "notify")
        self.notifier = NotifySocket(self.manager.address)
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(5)

    def keeper(self, limit: int = 100) -> StoreKeeper:
        return StoreKeeper(self.notifier, limit)

    def next(self) -> tuple[StoreKeeper, Bag]:
        """The keeper of a process that comes after us, and what was passed to it."""
        self.manager.read_all()
        passed = [(name, os.dup(fd)) for name, fd in self.manager.store]
        keeper, bag = StoreKeeper(self.notifier, 100, passed), Bag()
        bag.fds = {name: fd for name, fd in keeper.names.items() if name != RECORD}
        return keeper, bag

    def names(self) -> set[str]:
        self.manager.read_all()
        return {name for name, _ in self.manager.store}

    def describe(self, bag: Bag) -> Record:
        return {
            "qemu": bag.put(self.ours.fileno(), upstream=True),
            "tail": bag.put_bytes(b"under way"),
        }

    def close(self) -> None:
        for each in (self.ours, self.theirs, self.notifier):
            each.close()
        self.manager.__exit__()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    setup = Setup(tmp_path)
    yield setup
    setup.close()


def test_what_is_kept_has_a_name_that_tells_its_role(setup: Setup) -> None:
    keeper, fd = setup.keeper(), setup.ours.fileno()
    keeper.keep(fd, Role.UPSTREAM)
    keeper.keep(fd, Role.UPSTREAM)
    assert setup.names() == {RECORD, "u1"}
    keeper.release(fd)
    keeper.release(fd)
    assert setup.names() == {RECORD}
    keeper.keep(fd, Role.CLIENT)  # another file of the same number
    assert setup.names() == {RECORD, "c2"}


def test_after_a_death_the_sketch_says_what_is_what_without_the_bytes(setup: Setup) -> None:
    keeper = setup.keeper()
    keeper.keep(setup.ours.fileno(), Role.UPSTREAM)
    keeper.sketch(setup.describe)
    after, bag = setup.next()
    record = after.read(bag)
    assert record["qemu"] in bag
    assert not bag.whole
    assert bag.take_bytes(record["tail"]) == b""
    # Others get other names.
    read, write = os.pipe()
    after.keep(read, Role.CLIENT)
    assert setup.names() == {RECORD, "u1", "c2"}
    os.close(read)
    os.close(write)


def test_without_a_sketch_there_is_no_record(setup: Setup) -> None:
    setup.keeper()
    after, bag = setup.next()
    with pytest.raises(RecordError, match="no record"):
        after.read(bag)


async def test_changes_are_described_soon(setup: Setup) -> None:
    keeper = setup.keeper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run, setup.describe)
        keeper.keep(setup.ours.fileno(), Role.UPSTREAM)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    after, bag = setup.next()
    assert after.read(bag)["qemu"] == "u1"


async def test_what_is_handed_over_is_whole(setup: Setup) -> None:
    keeper = setup.keeper()
    keeper.keep(setup.ours.fileno(), Role.UPSTREAM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.manager.serve)
        await keeper.hand_over(setup.describe)
        nursery.cancel_scope.cancel()
    after, bag = setup.next()
    assert bag.take_bytes(after.read(bag)["tail"]) == b"under way"
    assert bag.whole
    setup.theirs.setblocking(False)
    with pytest.raises(BlockingIOError):  # nobody has left
        setup.theirs.recv(1)


async def test_a_qemu_for_which_there_is_no_room_is_left(setup: Setup) -> None:
    keeper = setup.keeper(limit=1)
    keeper.keep(setup.ours.fileno(), Role.UPSTREAM)
    setup.theirs.shutdown(socket.SHUT_WR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.manager.serve)
        await keeper.hand_over(setup.describe)
        nursery.cancel_scope.cancel()
    assert setup.theirs.recv(1) == b""
    after, bag = setup.next()
    assert after.read(bag)["qemu"] not in bag


async def test_where_systemd_does_not_read_qemu_is_left(
    setup: Setup, autojump_clock: MockClock
) -> None:
    keeper = setup.keeper()
    keeper.keep(setup.ours.fileno(), Role.UPSTREAM)
    setup.theirs.shutdown(socket.SHUT_WR)
    await keeper.hand_over(setup.describe)
    assert setup.theirs.recv(1) == b""


async def test_without_a_descriptor_to_wait_by_nothing_is_waited_for(setup: Setup) -> None:
    keeper = setup.keeper()
    keeper.keep(setup.ours.fileno(), Role.UPSTREAM)
    setup.theirs.shutdown(socket.SHUT_WR)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        await keeper.settle()
        await keeper.hand_over(setup.describe)
        await keeper.end()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert setup.theirs.recv(1) == b""  # nobody knows whether it is kept: it is left


async def test_at_the_end_nothing_is_kept(setup: Setup) -> None:
    keeper = setup.keeper()
    keeper.keep(setup.ours.fileno(), Role.UPSTREAM)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setup.manager.serve)
        await keeper.end()
        nursery.cancel_scope.cancel()
    assert setup.names() == set()
