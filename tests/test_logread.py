"""A log read from its files: whole, in order, from any time on, and while it grows and moves."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.logs import reader as logread
from bridge.logs import transcript
from bridge.logs.file import LogFile, tidy
from bridge.logs.reader import LogReader
from bridge.logs.segments import current, rotated
from bridge.logs.transcript import Transcript, stamp

NAME = "vm1"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def log_lines(count: int, start: int = 0) -> list[bytes]:
    """One a second."""
    return [
        stamp(NOON + timedelta(seconds=n)) + b" | line %06d\n" % n
        for n in range(start, start + count)
    ]


@contextmanager
def log_file(directory: Path, size: int = 1 << 20) -> Iterator[LogFile]:
    file = LogFile(directory, NAME, size=size, keep=1000)
    try:
        yield file
    finally:
        file.close()


def read(directory: Path, since: datetime | None = None) -> bytes:
    with LogReader(directory, NAME) as reader:
        return b"".join(reader.read(since))


def test_there_may_be_none(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with LogReader(directory, NAME) as reader:
            assert not reader.exists
            assert list(reader.read()) == []
    (tmp_path / "vm1.log.000001.log").touch()  # another console's
    with LogReader(tmp_path, NAME) as reader:
        assert not reader.exists


def test_all_files_are_read_in_order(tmp_path: Path) -> None:
    lines = log_lines(1000)
    with log_file(tmp_path, size=5000) as file:
        for at in range(0, 1000, 50):
            file.append(b"".join(lines[at : at + 50]), b"")
            if at == 500:
                tidy(tmp_path, NAME)
    forms = [segment.compressed for segment in rotated(tmp_path, NAME)]
    assert True in forms
    assert False in forms
    assert read(tmp_path) == b"".join(lines)
    os.unlink(current(tmp_path, NAME))  # as for an instant of each rotation
    assert b"".join(lines).startswith(read(tmp_path))


@pytest.mark.parametrize("near", [64, logread._NEAR])  # noqa: SLF001
@pytest.mark.parametrize("compressed", [False, True])
def test_since_leaves_out_what_is_older_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, near: int, *, compressed: bool
) -> None:
    monkeypatch.setattr(logread, "_NEAR", near)
    lines = log_lines(600)
    lines[100] = b"2026-11-2\n"  # cut by a crash
    lines[200] = stamp(NOON + timedelta(seconds=200)) + b" | " + b"x" * 8000 + b"\n"
    with log_file(tmp_path, size=10_000) as file:
        for line in lines:
            file.append(line, b"")
    if compressed:
        tidy(tmp_path, NAME)
    assert len(rotated(tmp_path, NAME)) > 2
    for second in (-1, *range(0, 600, 7), 99, 100, 101, 200, 201, 598, 599):
        wanted = lines[max(second, 0) :] if second != 100 else lines[101:]
        assert read(tmp_path, NOON + timedelta(seconds=second)) == b"".join(wanted), second
    assert read(tmp_path, NOON + timedelta(seconds=600)) == b""


def test_since_finds_its_place_in_a_big_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = log_lines(200_000)
    with log_file(tmp_path, size=1 << 30) as file:
        file.append(b"".join(lines), b"")
    looked = 0

    def count(line: bytes) -> datetime | None:
        nonlocal looked
        looked += 1
        return transcript.time_of(line)

    monkeypatch.setattr(logread, "time_of", count)
    assert read(tmp_path, NOON + timedelta(seconds=150_000)) == b"".join(lines[150_000:])
    assert looked < 3000


def test_an_unfinished_line_is_not_old(tmp_path: Path) -> None:
    with log_file(tmp_path) as file:
        file.append(b"".join(log_lines(3)) + stamp(NOON) + b" | login: ", b"")
        assert read(tmp_path, NOON + timedelta(days=1)) == stamp(NOON) + b" | login: "


def seen_while(
    directory: Path, work: Callable[[LogFile], None], expected: int, size: int = 1 << 20
) -> bytes:
    """What a follower sees, up to so many bytes, of a log to which another thread does ``work``."""

    def write() -> None:
        with log_file(directory, size) as file:
            work(file)

    output, null = os.pipe()
    writer = threading.Thread(target=write)
    seen = b""
    try:
        with LogReader(directory, NAME) as reader:
            seen += b"".join(reader.read())
            writer.start()
            for data in reader.follow(null):
                seen += data
                if len(seen) >= expected:
                    return seen
    finally:
        writer.join()
        os.close(output)
        os.close(null)
    raise AssertionError


def test_following_goes_on_across_rotations(tmp_path: Path) -> None:
    lines = log_lines(5000)

    def work(file: LogFile) -> None:
        for at in range(100, 5000, 25):
            file.append(b"".join(lines[at : at + 25]), b"")
            if at % 500 == 0:
                tidy(tmp_path, NAME)

    with log_file(tmp_path) as file:
        file.append(b"".join(lines[:100]), b"")
    whole = b"".join(lines)
    seen = seen_while(tmp_path, work, len(whole), size=3000)
    same = seen == whole  # pytest's own comparison of so much takes minutes
    assert same, len(seen)
    assert len(rotated(tmp_path, NAME)) > 10


def test_following_begins_with_the_first_file(tmp_path: Path) -> None:
    whole = b"".join(log_lines(10))
    assert seen_while(tmp_path, lambda file: file.append(whole, b""), len(whole)) == whole


@pytest.mark.parametrize("how", [os.unlink, lambda p: os.rename(p, f"{p}.mine")])
def test_following_a_log_whose_file_is_moved_away(
    tmp_path: Path, how: Callable[[Path], None]
) -> None:
    one, two = log_lines(2)
    with log_file(tmp_path) as file:
        file.append(one, b"")

    def work(file: LogFile) -> None:
        how(current(tmp_path, NAME))
        file.append(two, b"")

    assert seen_while(tmp_path, work, len(one + two)) == one + two


def test_following_a_log_that_is_emptied(tmp_path: Path) -> None:
    one, two = log_lines(2)
    with log_file(tmp_path) as file:
        file.append(one * 10, b"")

    def work(file: LogFile) -> None:
        os.truncate(current(tmp_path, NAME), 0)
        file.append(two, b"")

    assert seen_while(tmp_path, work, len(one * 10 + two)) == one * 10 + two


def test_following_ends_when_nobody_reads(tmp_path: Path) -> None:
    output, our_end = os.pipe()
    os.close(output)
    try:
        with LogReader(tmp_path, NAME) as reader, pytest.raises(BrokenPipeError):
            next(reader.follow(our_end))
    finally:
        os.close(our_end)


@given(
    st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 3)), max_size=15),
    st.integers(-1, 30),
    st.integers(50, 400),
)
def test_since_equals_looking_at_each_line(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[tuple[bytes, int]],
    since: int,
    size: int,
) -> None:
    directory = tmp_path_factory.mktemp("log")
    form, second = Transcript(), 0
    with log_file(directory, size) as file:
        for data, seconds in pieces:
            second += seconds
            grown = form.feed(data, NOON + timedelta(seconds=second))
            file.append(grown, stamp(NOON + timedelta(seconds=second)) + b" + ")
        file.append(form.end(), b"")
    when = NOON + timedelta(seconds=since)
    text = read(directory)
    wanted = [line for line in text.splitlines(keepends=True) if line[:29] >= stamp(when)]
    assert read(directory, when) == b"".join(wanted)
