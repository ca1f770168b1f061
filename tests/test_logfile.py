"""A log's file on a real disk: nothing lost, nothing twice, nobody else's, whatever happens."""

import gzip
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.logs.file import LogFile, tidy
from bridge.logs.segments import current, rotated

NAME = "vm.1"
MORE = b"T + "


_opened: list[LogFile] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def log_file(
    directory: Path, size: int = 1 << 20, keep: int = 100, *, line_open: bool = False
) -> LogFile:
    _opened.append(LogFile(directory / "log", NAME, size=size, keep=keep, line_open=line_open))
    return _opened[-1]


def everything(directory: Path) -> bytes:
    """What a reader of the files sees, in order."""
    log = directory / "log"
    whole = b""
    for segment in rotated(log, NAME):
        data = segment.path.read_bytes()
        whole += gzip.decompress(data) if segment.compressed else data
    return whole + (current(log, NAME).read_bytes() if current(log, NAME).exists() else b"")


def lines(count: int, start: int = 0) -> bytes:
    return b"".join(b"T | line %06d\n" % n for n in range(start, start + count))


def test_file_and_directory_are_ours_alone(tmp_path: Path) -> None:
    first = log_file(tmp_path / "a" / "b")
    first.append(b"T | x\n", MORE)
    first.close()
    for path in (tmp_path / "a", tmp_path / "a" / "b" / "log"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    file = current(tmp_path / "a" / "b" / "log", NAME)
    assert file.name == "vm.1.log"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    log_file(tmp_path / "a" / "b").append(b"T | y\n", MORE)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_restart_appends_and_ends_the_line_that_was_cut(tmp_path: Path) -> None:
    for text in (b"T | one\nT | tw", b"T | three\n", b"T | four\n"):
        file = log_file(tmp_path)
        file.append(text, MORE)
        file.close()
    assert everything(tmp_path) == b"T | one\nT | tw\nT | three\nT | four\n"


def test_another_process_goes_on_with_the_line(tmp_path: Path) -> None:
    """As after a re-exec."""
    first = log_file(tmp_path)
    first.append(b"T | log", MORE)
    first.close()
    second = log_file(tmp_path, line_open=True)
    second.append(b"in:\n", MORE)
    assert everything(tmp_path) == b"T | login:\n"


def test_it_is_rotated_by_size_at_a_line_end_and_the_oldest_goes(tmp_path: Path) -> None:
    file = log_file(tmp_path, size=1000, keep=3)
    for start in range(0, 1000, 100):
        file.append(lines(100, start), MORE)
    segments = rotated(tmp_path / "log", NAME)
    assert [s.number for s in segments] == list(range(segments[0].number, segments[0].number + 3))
    assert all(900 < s.path.stat().st_size <= 1000 for s in segments)
    seen = everything(tmp_path)
    assert lines(1000).endswith(seen)
    assert 3 * 900 < len(seen) <= 4 * 1000
    assert file.appended == len(lines(1000))
    assert file.rotations == segments[-1].number


def test_none_is_kept_if_none_is_wanted(tmp_path: Path) -> None:
    log_file(tmp_path, size=1000, keep=0).append(lines(1000), MORE)
    assert rotated(tmp_path / "log", NAME) == []


def test_a_line_that_is_open_goes_on_in_the_next_file(tmp_path: Path) -> None:
    file = log_file(tmp_path, size=20)
    for text in (b"T | 789012345678901", b"23", b"\nT | x\n", b"T | 789012345678901", b"\nT | y"):
        file.append(text, MORE)
    assert everything(tmp_path) == (
        b"T | 789012345678901\nT + 23\nT | x\nT | 789012345678901\nT | y"
    )


@pytest.mark.parametrize("how", [os.unlink, lambda p: os.rename(p, f"{p}.mine"), lambda p: None])
def test_a_file_that_is_moved_away_is_let_go(tmp_path: Path, how: Callable[[Path], None]) -> None:
    file = log_file(tmp_path)
    file.append(b"T | one\nT | tw", MORE)
    how(current(tmp_path / "log", NAME))
    gone = not current(tmp_path / "log", NAME).exists()
    file.append(b"o\nT | three\n", MORE)
    expected = b"T + o\nT | three\n" if gone else b"T | one\nT | two\nT | three\n"
    assert everything(tmp_path) == expected


def test_a_truncated_file_grows_from_its_start(tmp_path: Path) -> None:
    file = log_file(tmp_path, size=100)
    file.append(lines(5), MORE)
    os.truncate(current(tmp_path / "log", NAME), 0)
    file.append(lines(5), MORE)
    assert everything(tmp_path) == lines(5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.symlink_to("/etc/passwd"), "is a symbolic link"),
        (lambda p: p.mkdir(), "Is a directory"),
        (os.mkfifo, "not a regular file"),
        (lambda p: p.parent.chmod(0o770), "others may write"),
    ],
)
def test_what_is_no_file_of_ours_is_refused(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    (tmp_path / "log").mkdir(mode=0o700)
    make(current(tmp_path / "log", NAME))
    with pytest.raises(OSError, match=reason):
        log_file(tmp_path).append(b"T | x\n", MORE)


def test_two_services_do_not_write_to_one_log(tmp_path: Path) -> None:
    first, second = log_file(tmp_path, size=1000), log_file(tmp_path, size=1000)
    first.append(lines(10), MORE)
    for _ in range(3):  # across rotations, too
        with pytest.raises(OSError, match="another ttybridge writes to it"):
            second.append(b"T | no\n", MORE)
        first.append(lines(100), MORE)
    first.close()
    second.append(b"T | yes\n", MORE)
    assert everything(tmp_path) == lines(10) + lines(100) * 3 + b"T | yes\n"


@contextmanager
def disk_of(limit: int) -> Iterator[None]:
    """No file can grow beyond ``limit``: as on a full disk, some of a write may fit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [0, 1, 18, 20, 25, 100])
def test_a_full_disk_takes_what_fits_and_the_rest_later(tmp_path: Path, limit: int) -> None:
    before = log_file(tmp_path)
    before.append(b"T | cut", MORE)  # so that there is something owed
    before.close()
    file, text = log_file(tmp_path), lines(10)
    with disk_of(limit), pytest.raises(OSError, match="File too large"):
        file.append(text, MORE)
    with disk_of(limit + 30), pytest.raises(OSError, match="File too large"):
        file.append(text[file.appended :], MORE)
    assert file.appended < len(text)
    file.append(text[file.appended :], MORE)
    assert everything(tmp_path) == b"T | cut\n" + text


def test_rotated_files_are_compressed_in_their_order(tmp_path: Path) -> None:
    file = log_file(tmp_path, size=1000)
    file.append(lines(100), MORE)
    plain = rotated(tmp_path / "log", NAME)
    times = [segment.path.stat().st_mtime_ns for segment in plain]
    tidy(tmp_path / "log", NAME)
    segments = rotated(tmp_path / "log", NAME)
    assert [s.number for s in segments] == [s.number for s in plain]
    assert all(s.compressed and not s.plain.exists() for s in segments)
    assert all(stat.S_IMODE(s.path.stat().st_mode) == 0o600 for s in segments)
    assert [s.path.stat().st_mtime_ns for s in segments] == times
    file.append(lines(100, 100), MORE)
    assert everything(tmp_path) == lines(200)


class Killed(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("keep", [100, 2])
def test_a_crash_at_any_moment_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """Killed before each of the system calls that change a disk, in turn; then started again."""
    text = lines(600)

    def live(directory: Path, text: bytes, countdown: float) -> tuple[int, bool]:
        """Append, rotate and compress until killed; return how much was appended, and if killed."""
        file = log_file(directory, size=2000, keep=keep)

        def fatal(call: Callable[..., object]) -> Callable[..., object]:
            def run(*args: object, **options: object) -> object:
                nonlocal countdown
                if (countdown := countdown - 1) < 0:
                    raise Killed
                return call(*args, **options)

            return run

        with monkeypatch.context() as patch:
            for name in ("write", "rename", "unlink", "open", "fsync"):
                patch.setattr(os, name, fatal(getattr(os, name)))
            try:
                for at in range(0, len(text), 1600):
                    file.append(text[at : at + 1600], MORE)
                    tidy(directory / "log", NAME)
                tidy(directory / "log", NAME)
            except Killed:
                return file.appended, True
            finally:
                file.close()
        return file.appended, False

    for moment in range(1000):
        directory = tmp_path / str(moment)
        done, killed = live(directory, text, moment)
        seen = everything(directory)
        assert text[:done].endswith(seen)
        assert keep < 100 or seen == text[:done]
        live(directory, text[done:], float("inf"))
        assert text.endswith(everything(directory))
        assert keep < 100 or everything(directory) == text
        assert len(rotated(directory / "log", NAME)) <= keep + 1  # until the next rotation
        left = {path.name for path in (directory / "log").iterdir()}
        assert left == {s.path.name for s in rotated(directory / "log", NAME)} | {f"{NAME}.log"}
        if not killed:
            break
    assert 10 < moment < 999  # through all of them
