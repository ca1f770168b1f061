"""The service's messages: sentences for people, fields for programs, priorities for the journal."""

import io
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bridge.service import messages
from bridge.service.saying import Saying
from tests.support.bridge import Bridge
from tests.support.terminal import Terminal
from tests.support.user import User


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def said(level: str = "info", **fields: object) -> str:
    stream = io.StringIO()
    messages.set_up(level, stream)
    messages.event(logging.INFO, "vm1: attached", **fields)
    return stream.getvalue()


def test_a_line_is_the_message_and_then_its_fields() -> None:
    assert said() == "vm1: attached\n"
    assert said(kind="telnet", number=3, readonly=True, peer=None) == (
        "vm1: attached kind=telnet number=3 readonly=true\n"
    )
    assert said(why='no "such" file', empty="", path=r"a\b", evil="a\nb\x1b[2J x=1") == (
        'vm1: attached why="no \\"such\\" file" empty="" path="a\\\\b"'
        ' evil="a\\\\nb\\\\x1b[2J x=1"\n'
    )


@given(st.text(max_size=50))
def test_a_field_is_one_word_of_one_line(value: str) -> None:
    stream = io.StringIO()
    messages.set_up("info", stream)
    messages.event(logging.INFO, "m", key=value)
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    message, field = shlex.split(line) if "'" not in line else ("m", "key=")
    assert message == "m"
    assert field.startswith("key=")


def test_the_level_decides(capsys: pytest.CaptureFixture[str]) -> None:
    assert said("warning") == ""
    assert said("debug") != ""


def test_a_secret_in_a_url_is_not_said() -> None:
    stream = io.StringIO()
    messages.set_up("info", stream)
    logging.getLogger("ttybridge").info("no answer from %s", "wss://me:secret@host/path")
    messages.event(logging.INFO, "m", url="wss://me:secret@host/path")
    assert "secret" not in stream.getvalue()
    assert stream.getvalue().count("wss://***@host/path") == 2


def test_the_journal_gets_priorities_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "journal").open("w") as journal, (tmp_path / "other").open("w") as other:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        for stream in (journal, other):
            messages.set_up("debug", stream)
            log = logging.getLogger("ttybridge")
            log.debug("d")
            log.info("i")
            log.warning("w")
            try:
                raise ValueError("bug")
            except ValueError:
                log.exception("e")
            log.critical("c")
    first, *others = (tmp_path / "journal").read_text().splitlines()
    assert [first, *others[:2]] == ["<7>d", "<6>i", "<4>w"]
    assert others[2] == "<3>e"
    assert all(line.startswith("<3>") for line in others[3:-1])
    assert others[-2:] == ["<3>ValueError: bug", "<2>c"]
    assert (tmp_path / "other").read_text().startswith("d\ni\nw\ne\nTraceback")


@pytest.mark.parametrize("value", ["", "x", "1", "1:2:3"])
def test_no_journal_no_priorities(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", value)
    assert not messages.is_journal(sys.__stderr__ or sys.stderr)
    assert not messages.is_journal(io.StringIO())
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not messages.is_journal(sys.__stderr__ or sys.stderr)


def test_the_service_says_what_it_is_told_to(user: User, directory: Path) -> None:
    console = "vm1=ws://127.0.0.1:1"
    with Bridge(user, directory / "a", console) as bridge:
        bridge.wait_message("^vm1: WAITING: connection refused$")
    with Bridge(user, directory / "b", console, "--log-level", "error") as bridge:
        assert bridge.places
        assert bridge.stop() == 0
        assert bridge.messages == []
    done = user.run(["ttybridge", "run", console, "--log-level", "loud"])
    assert done.returncode == 2
    assert "--log-level" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_terminal_that_is_stopped_stops_no_console(user: User, directory: Path) -> None:
    """^S, to read something: what is said meanwhile comes with ^Q, and the guest goes on."""
    with Terminal(user, directory, f"ttybridge demo --runtime-dir {directory}/run") as terminal:
        terminal.wait_for("demo: ONLINE")
        terminal.keys("C-s")

        def add(number: int) -> None:
            asked = f"ttybridge add vm{number} ws://127.0.0.1:9 --runtime-dir {directory}/run"
            assert user.run(asked.split(), timeout=20).returncode == 0

        for number in range(5):
            add(number)
        assert "vm0" not in terminal.text
        terminal.keys("C-q")
        for number in range(5):
            terminal.wait_for(f"vm{number}: WAITING")


def log_to(handler: logging.Handler, text: str) -> None:
    handler.emit(logging.makeLogRecord({"msg": text}))


def test_who_reads_nothing_costs_a_bounded_memory_and_is_told() -> None:
    reading, writing = os.pipe()
    handler = Saying(writing, "utf-8")
    for number in range(10_000):
        log_to(handler, f"message {number:08}")
    seen = b""
    while b"more" not in seen:
        seen += os.read(reading, 1 << 16)
        log_to(handler, "more")
    os.close(writing)
    while data := os.read(reading, 1 << 16):
        seen += data
    os.close(reading)
    lines = seen.decode().splitlines()
    (loss,) = [n for n, line in enumerate(lines) if "lost" in line]
    assert lines[:loss] == [f"message {number:08}" for number in range(loss)]
    assert lines[loss] == f"({10_000 - loss} messages lost)"
    assert set(lines[loss + 1 :]) <= {"more"}


async def test_what_is_lost_is_told_without_another_message() -> None:
    reading, writing = os.pipe()
    handler = Saying(writing, "utf-8")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler.run)
        for number in range(10_000):
            log_to(handler, f"message {number:08}")
        seen = b""
        with trio.fail_after(20):
            while b"messages lost" not in seen:
                await trio.lowlevel.wait_readable(reading)
                seen += os.read(reading, 1 << 16)
        nursery.cancel_scope.cancel()
    os.close(writing)
    os.close(reading)


def test_a_terminal_that_nobody_reads_is_not_waited_for() -> None:
    """It polls as writable as long as it has any room, and then a write waits for more."""
    master, slave = os.openpty()
    handler = Saying(slave, "utf-8")
    for number in range(10_000):
        log_to(handler, f"message {number:08}")
    assert os.read(master, 1 << 16).startswith(b"message 00000000")
    os.close(slave)
    os.close(master)
