"""What systemd is told and when; the manager's end is played by a real socket here.

The real systemd is in test_systemd.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bridge.console.states import State
from bridge.systemd import notify as systemd
from bridge.systemd.notify import NotifySocket, Silence
from bridge.systemd.supervision import Supervision, describe
from tests.support.notified import Notified


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Notified]:
    with Notified(tmp_path / "notify") as manager:
        yield manager


@pytest.fixture
def notifier(tmp_path: Path, manager: Notified) -> Iterator[NotifySocket]:
    notifier = NotifySocket(str(tmp_path / "notify"))
    yield notifier
    notifier.close()


def fill(notifier: NotifySocket) -> int:
    """Send until there is no room; how many that took."""
    count = 0
    while notifier.send("X=1"):
        count += 1
        assert count < 100_000
    return count


def without_status(messages: list[list[str]]) -> list[list[str]]:
    return [words for words in messages if words != ["STATUS=0 consoles"]]


def test_status_is_described_in_one_line() -> None:
    assert describe({}) == "0 consoles"
    assert describe({State.WAITING: 1}) == "1 console: 1 waiting"
    assert describe({State.BUSY: 1, State.ONLINE: 2}) == "3 consoles: 2 online, 1 busy"
    assert describe({State.ONLINE: 0, State.FAILED: 1}) == "1 console: 1 failed"


async def test_ready_and_reload_are_told_in_order(
    manager: Notified, notifier: NotifySocket
) -> None:
    supervision = Supervision(notifier)
    supervision.ready()
    before = time.monotonic_ns() // 1000
    with pytest.raises(ZeroDivisionError), supervision.reloading():
        raise ZeroDivisionError  # over, well or not
    after = time.monotonic_ns() // 1000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run, dict)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    ready, reloading, again = without_status(manager.read_all())
    assert ready == again == ["READY=1"]
    assert reloading[0] == "RELOADING=1"
    assert before <= int(reloading[1].removeprefix("MONOTONIC_USEC=")) <= after


async def test_the_status_follows_changes_not_flaps(
    manager: Notified, notifier: NotifySocket, autojump_clock: MockClock
) -> None:
    supervision = Supervision(notifier)
    counts = {State.ONLINE: 1}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run, lambda: counts)
        await wait_all_tasks_blocked()
        assert manager.read_all() == [["STATUS=1 console: 1 online"]]
        await trio.sleep(10)
        counts = {State.WAITING: 1}
        supervision.changed()
        await wait_all_tasks_blocked()
        assert manager.read_all() == [["STATUS=1 console: 1 waiting"]]  # at once
        for _ in range(50):
            for state in (State.ONLINE, State.WAITING):
                counts = {state: 1}
                supervision.changed()
                await trio.sleep(0.05)
        counts = {State.BUSY: 1}
        supervision.changed()
        await trio.sleep(1)
        told = manager.read_all()
        assert len(told) <= 7  # 6 seconds
        assert told[-1] == ["STATUS=1 console: 1 busy"]
        supervision.changed()
        await trio.sleep(10)
        assert manager.read_all() == []  # it is the same
        nursery.cancel_scope.cancel()


async def test_the_watchdog_is_fed_at_half_its_interval(
    manager: Notified,
    notifier: NotifySocket,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    supervision = Supervision(notifier)
    with trio.move_on_after(9):
        await supervision.run(dict)
    assert without_status(manager.read_all()) == [["WATCHDOG=1"]] * 5


async def test_a_loop_that_hangs_feeds_nobody(
    manager: Notified, notifier: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    supervision = Supervision(notifier)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run, dict)
        await wait_all_tasks_blocked()
        manager.read_all()
        time.sleep(0.2)  # noqa: ASYNC251 (the hang)
        assert len(manager.read_all()) <= 1  # sent before
        nursery.cancel_scope.cancel()


async def test_what_finds_no_room_is_told_later(manager: Notified, notifier: NotifySocket) -> None:
    fill(notifier)
    supervision = Supervision(notifier)
    supervision.stopping()  # dropped: it would be too late
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run, dict)
        supervision.ready()
        await wait_all_tasks_blocked()
        told: list[list[str]] = []
        while len(told) < 2:
            told += [words for words in manager.read_all() if words != ["X=1"]]
            await trio.sleep(0.001)
        assert sorted(told) == [["READY=1"], ["STATUS=0 consoles"]]
        nursery.cancel_scope.cancel()


def test_the_manager_is_found_by_path_and_by_abstract_name(tmp_path: Path) -> None:
    abstract = f"ttybridge-test-{os.getpid()}"
    for bound, variable in (
        (str(tmp_path / "n"), str(tmp_path / "n")),
        (f"\0{abstract}", f"@{abstract}"),
    ):
        with Notified(bound) as manager:
            notifier = systemd.notifier({"NOTIFY_SOCKET": variable})
            assert isinstance(notifier, NotifySocket)
            assert notifier.send("A=1", "B=2")
            assert manager.read_all() == [["A=1", "B=2"]]
            notifier.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager_everything_is_taken(environment: dict[str, str]) -> None:
    notifier = systemd.notifier(environment)
    assert isinstance(notifier, Silence)
    assert notifier.send("READY=1", fds=[0])


def test_a_manager_that_is_gone_disturbs_nobody_and_a_new_one_is_found(tmp_path: Path) -> None:
    address = tmp_path / "n"
    notifier = NotifySocket(str(address))
    assert notifier.send("A=1")  # nobody there yet
    with Notified(address) as manager:
        assert notifier.send("B=1")
        assert manager.read_all() == [["B=1"]]
        assert fill(notifier)
    assert notifier.send("C=1")  # gone
    address.unlink()
    assert notifier.send("D=1")
    with Notified(address) as manager:
        assert notifier.send("E=1")
        assert manager.read_all() == [["E=1"]]
    notifier.close()


def test_a_closed_descriptor_is_our_own_mistake(manager: Notified, notifier: NotifySocket) -> None:
    with pytest.raises(OSError, match="Bad file"):
        notifier.send("FDSTORE=1", fds=[999_999])


def test_an_address_that_cannot_be_told_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = NotifySocket(str(tmp_path / "nowhere"))
    for _ in range(3):
        assert notifier.send("READY=1")
    assert [r.getMessage() for r in caplog.records] == [
        "systemd cannot be told of our state: No such file or directory"
    ]
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_of_the_environment(
    environment: dict[str, str], interval: float | None
) -> None:
    assert systemd.watchdog_interval(environment) == interval


LISTENER = """
import os, sys
from bridge.systemd import notify as systemd
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
passed = systemd.listen_fds()
print(passed, [os.get_inheritable(fd) for _, fd in passed], [v for v in os.environ if "LISTEN" in v])
"""


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ({"LISTEN_FDNAMES": "a:b"}, "[('a', 3), ('b', 4)] [False, False] []\n"),
        ({"LISTEN_FDNAMES": "a"}, "[('a', 3), ('unknown', 4)] [False, False] []\n"),
        ({}, "[('unknown', 3), ('unknown', 4)] [False, False] []\n"),
    ],
)
def test_descriptors_that_were_passed(names: dict[str, str], shown: str) -> None:
    assert listen(names, "0") == shown


def test_descriptors_for_another_process_are_left_alone() -> None:
    assert listen({"LISTEN_FDNAMES": "a:b"}, "1") == "[] [] []\n"


def listen(names: dict[str, str], other: str) -> str:
    """A child that is passed two descriptors as 3 and 4."""
    ends = socket.socketpair()
    fds = [os.dup2(end.fileno(), 100 + i) for i, end in enumerate(ends)]
    shell = f'exec "$0" -c "$1" {other} 3<&{fds[0]} 4<&{fds[1]} {fds[0]}<&- {fds[1]}<&-'
    try:
        return subprocess.run(
            ["bash", "-c", shell, sys.executable, LISTENER],
            env={**os.environ, "LISTEN_FDS": "2", **names},
            pass_fds=fds,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    finally:
        for fd in fds:
            os.close(fd)
        for end in ends:
            end.close()
