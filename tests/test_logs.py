"""The logs of real consoles on a real disk: complete, in order, and never in anybody's way."""

import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bridge.base.handover import Bag, Ending
from bridge.console.console import Console
from bridge.console.pacing import Input, Pacer
from bridge.console.states import State
from bridge.logs import writer as module
from bridge.logs.consolelog import ConsoleLog
from bridge.logs.file import LogFile
from bridge.logs.segments import current, rotated
from bridge.logs.transcript import COLUMN
from bridge.logs.writer import CALM_SECONDS, Logs

RING = 64 * 1024


class Line:
    clear = True

    def send(self, payload: bytes) -> None:
        pass


def console(name: str = "vm1", ring: int = RING) -> Console:
    return Console(name, "ws://h:1", scrollback=ring, pacer=Pacer(Input.DIRECT))


@dataclass
class Desk:
    """Logs that run, and what they said."""

    directory: Path
    logs: Logs
    said: list[str] = field(default_factory=list)

    def lines(self, name: str = "vm1") -> list[str]:
        """The growing file, without times."""
        text = current(self.directory, name).read_text()
        return [re.sub(r"^\S{29} ", "", line) for line in text.split("\n")]

    async def settled(self, name: str = "vm1", *, limit: float = 20) -> list[str]:
        """The lines once everything is written."""
        with trio.fail_after(limit):
            while self.logs.unwritten:
                await trio.sleep(0.01)  # threads know no events of ours
        return self.lines(name)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Desk]:
    said: list[str] = []
    logs = Logs(directory / "log", lambda name, text: said.append(f"{name}: {text}"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(logs.run)
        yield Desk(directory / "log", logs, said)
        nursery.cancel_scope.cancel()


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """No threads: beside them fake time would pass."""

    async def run(call: Callable[..., object], *args: object, **_options: object) -> object:
        await trio.lowlevel.checkpoint()
        return call(*args)

    monkeypatch.setattr(trio.to_thread, "run_sync", run)


async def test_output_and_changes_of_state_are_in_their_order(tmp_path: Path) -> None:
    hub = console()
    async with running(tmp_path) as desk:
        log = desk.logs.add(hub, size=1 << 20, keep=1)
        hub.enter(State.WAITING, "connection refused")
        hub.connect(Line())
        hub.feed(b"boot\r\nlogin: ")
        assert (await desk.settled())[-1] == "| login: "  # a prompt does not wait for its end
        hub.feed(b"root\r\nPass")
        hub.hang_up()
        hub.enter(State.BUSY, "held by \x1b[2Jpid 1")
        hub.feed(b"word: ")
        desk.logs.remove(log)
        assert hub.readers == []
        hub.feed(b"not for the log")
        assert await desk.settled() == [
            "-- vm1: log begins",
            "-- vm1: WAITING: connection refused",
            "-- vm1: ONLINE",
            "| boot",
            "| login: root",
            "| Pass",
            "-- vm1: BUSY: held by \\x1b[2Jpid 1",
            "+ word: ",
            "-- vm1: log ends",
            "",
        ]
    assert desk.said == []


async def test_the_end_of_the_service_writes_what_there_is(tmp_path: Path) -> None:
    hub = console()
    async with running(tmp_path) as desk:
        desk.logs.add(hub, size=1 << 20, keep=1)
        hub.feed(b"last words")
    assert desk.lines() == ["-- vm1: log begins", "| last words", "-- vm1: log ends", ""]


async def test_another_process_takes_a_log_over_amid_a_line(tmp_path: Path) -> None:
    hub = console()
    async with running(tmp_path) as desk:
        log = desk.logs.add(hub, size=1 << 20, keep=1)
        hub.feed(b"one\r\ntw")
        hub.ending = Ending.HAND_OVER
    bag = Bag()
    record = json.loads(json.dumps(log.state(bag)))
    async with running(tmp_path) as desk:
        desk.logs.add(hub, size=1 << 20, keep=1, left=(record, bag))
        hub.feed(b"o\r\nthree\r\n")
        assert (await desk.settled())[1:] == ["| one", "| two", "| three", ""]


async def test_a_log_may_be_ended_and_begun_at_once(tmp_path: Path) -> None:
    """As a reload does that changes its size."""
    hub = console()
    async with running(tmp_path) as desk:
        log = desk.logs.add(hub, size=1 << 20, keep=1)
        for n in range(20):
            hub.feed(b"%d\r\n" % n)
            desk.logs.remove(log)
            log = desk.logs.add(hub, size=1 << 20, keep=1)
        lines = await desk.settled()
        assert [line for line in lines if line[:1] == "|"] == [f"| {n}" for n in range(20)]
    assert desk.said == []


async def test_a_flood_is_logged_whole_in_many_files_of_many_consoles(tmp_path: Path) -> None:
    hubs = [console(f"vm{n}", 1 << 20) for n in range(4)]
    text = b"".join(b"%08d\r\n" % n for n in range(100_000))  # as much as the ring, each
    async with running(tmp_path) as desk:
        for hub in hubs:
            desk.logs.add(hub, size=1 << 20, keep=100)
        for at in range(0, len(text), 4096):
            for hub in hubs:
                hub.feed(text[at : at + 4096])
            await trio.lowlevel.checkpoint()
        await desk.settled("vm0")
        for hub in hubs:
            paths = [s.path for s in rotated(desk.directory, hub.name)]
            paths.append(current(desk.directory, hub.name))
            assert len(paths) > 3
            logged = b"".join(path.read_bytes() for path in paths)
            lines = re.findall(rb"^\S{29} \| (\d*)$", logged, re.MULTILINE)
            assert lines == [b"%08d" % n for n in range(100_000)]
    assert desk.said == []


async def test_a_line_has_the_time_of_its_coming_not_of_its_writing(tmp_path: Path) -> None:
    hub, now = console(), 1_800_000_000.0
    logs = Logs(tmp_path, lambda *_: None, clock=lambda: now)
    async with trio.open_nursery() as nursery:
        logs.add(hub, size=1 << 20, keep=1)
        for piece in (b"a", b"b\r\nc", b"\r\nd\r\n"):
            now += 0.25
            hub.feed(piece)
        now += 100
        nursery.start_soon(logs.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    text = current(tmp_path, "vm1").read_text()
    assert re.findall(r"(\S{6})[+-]\d\d:\d\d [|-]", text) == [
        "00.000",
        "00.250",
        "00.500",
        "00.750",
        "40.750",
    ]


async def test_a_disk_that_takes_nothing_is_said_once_and_what_is_missing_is_counted(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, in_place: None
) -> None:
    hub = console()
    hub.connect(Line())
    async with running(tmp_path) as desk:
        desk.logs.add(hub, size=1 << 20, keep=1)
        hub.feed(b"first\r\n")
        await trio.sleep(1)
        file = current(desk.directory, "vm1")
        file.unlink()
        file.mkdir()  # whose writes fail as long as it is there
        for n in range(100):
            hub.feed(b"%08d\r\n" % n)
        await trio.sleep(10)
        for n in range(100, 20_000):
            hub.feed(b"%08d\r\n" % n)
        hub.hang_up()
        hub.enter(State.WAITING, "gone")
        await trio.sleep(100)
        file.rmdir()
        await trio.sleep(100)
        hub.feed(b"last")
        lines = await desk.settled(limit=1000)
    assert desk.said == [
        f"vm1: log: {file}: Is a directory; trying again",
        f"vm1: log: {file}: is written again",
    ]
    assert lines[:100] == [f"| {n:08}" for n in range(100)]
    match = re.fullmatch(r"-- vm1: (\d+) bytes are missing", lines[100])
    assert match
    first = 100 + int(match[1]) // 10
    assert first < 20_000
    rest = [f"| {n:08}" for n in range(first, 20_000)]
    assert lines[101:] == [*rest, "-- vm1: WAITING: gone", "| last"]


async def test_a_hung_disk_delays_nobody_and_the_end_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hung, entered = threading.Event(), threading.Event()

    def append(self: LogFile, data: bytes, more: bytes) -> None:
        entered.set()
        hung.wait()

    monkeypatch.setattr(LogFile, "append", append)
    monkeypatch.setattr(module, "GRACE", 0.2)
    hub = console()
    try:
        async with running(tmp_path) as desk:
            desk.logs.add(hub, size=1 << 20, keep=1)
            await trio.to_thread.run_sync(entered.wait)
            with trio.fail_after(60):  # each wait takes a second
                for n in range(100_000):
                    hub.feed(b"%08d\r\n" % n)
                    await hub.wait_laggards(4096)
            end = trio.current_time()
        assert trio.current_time() - end < 5
    finally:
        hung.set()
    assert desk.said == [f"vm1: log: {current(desk.directory, 'vm1')}: its end took too long"]


async def test_rotated_files_are_compressed_when_their_console_has_calmed_down(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, in_place: None
) -> None:
    hub = console()
    async with running(tmp_path) as desk:
        desk.logs.add(hub, size=64 << 10, keep=100)

        def compressed() -> list[bool]:
            return [segment.compressed for segment in rotated(desk.directory, "vm1")]

        for _ in range(10):
            hub.feed(b"0123456789abcde\r\n" * 3000)
            await trio.sleep(CALM_SECONDS / 2)
        assert len(compressed()) >= 10
        assert not any(compressed())
        with trio.fail_after(10 * CALM_SECONDS):
            while not all(compressed()):
                await trio.sleep(1)
    assert desk.said == []


@given(
    st.lists(
        st.one_of(st.binary(max_size=2000), st.integers(0, 3000), st.sampled_from(State)),
        max_size=20,
    )
)
async def test_what_is_taken_and_what_is_missing_is_all_there_was(
    events: list[bytes | int | State],
) -> None:
    """Whenever the disk takes something (an integer: so much of it) or does not."""
    disk = Disk()
    hub = console(ring=4096)
    woken: list[object] = []
    log = ConsoleLog(hub, disk, woken.append, clock=lambda: 1.0)  # type: ignore[arg-type]
    log.begin(None)
    total = 0
    for event in events:
        match event:
            case bytes():
                data = event.translate(None, b"\r\n\0")
                hub.feed(data)
                total += len(data)
            case int():
                disk.take(log.take()[:event])
                log.wrote()
            case State.ONLINE:
                hub.hang_up()
                hub.connect(Line())
            case State():
                hub.hang_up()
                hub.enter(event, "r")
    log.close()
    while not log.idle:
        disk.take(log.take())
        log.wrote()
    *lines, rest = disk.data.split(b"\n")
    assert rest == b""
    texts = sum(len(line) - COLUMN for line in lines if line[30:31] != b"-")
    gaps = re.findall(rb"^\S+ -- vm1: (\d+) bytes are missing$", disk.data, re.MULTILINE)
    assert sum(map(int, gaps)) == log.missing
    assert texts + log.missing == total


class Disk:
    """Stands in for a LogFile that took what it was told to."""

    appended = 0
    data = b""

    def take(self, data: bytes) -> None:
        self.data += data
        self.appended += len(data)
