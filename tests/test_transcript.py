"""A console's stream as lines of text: nothing lost, nothing imitated, however it is cut."""

import re
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.logs.transcript import COLUMN, LINE_LIMIT, Transcript, stamp

NOON = datetime(2026, 11, 24, 12, 0, 0, 123456, UTC)
T = "2026-11-24T12:00:00.123+00:00"
LINE = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (?:[|+] |-- ).*", re.DOTALL)

# Pieces that meet each other's edge cases; long ones around where a line is cut.
PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"a",
                b"\r",
                b"\n",
                b"\r\n",
                b"\n\r",
                b"\0",
                b" ",
                b"\x1b[31m",
                "ü€😀".encode(),
                b"\x80",
            ]
        ),
        st.sampled_from([b"x", b"\xa9", "€".encode(), b"x " * 5]).map(lambda b: b * LINE_LIMIT),
        st.integers(LINE_LIMIT - 3, LINE_LIMIT + 3).map(lambda n: b"y" * n),
        st.binary(max_size=8),
    ),
    max_size=12,
)


def written(*pieces: bytes) -> str:
    """The file, without its times."""
    transcript = Transcript()
    return b"".join(transcript.feed(piece, NOON) for piece in pieces).decode().replace(T, "T")


def test_each_line_has_a_time_and_text_as_it_came() -> None:
    assert (
        written(b"one\r\n\x1b[31mtwo\x1b[m\ttabs\n\r\n")
        == "T | one\nT | \x1b[31mtwo\x1b[m\ttabs\nT | \n"
    )


def test_an_unfinished_line_is_there_at_once_and_goes_on_where_it_was() -> None:
    assert written(b"login: ") == "T | login: "
    assert written(b"login: ", b"root", b"\r", b"\n", b"# ") == "T | login: root\nT | # "


def test_a_line_has_the_time_of_its_first_byte() -> None:
    transcript = Transcript()
    grown = b""
    for second, piece in enumerate((b"a", b"b\nc", b"\nd\n")):
        grown += transcript.feed(piece, NOON + timedelta(seconds=second))
    assert re.findall(rb":(\d\d)\.123\S+ \| (.*)", grown) == [
        (b"00", b"ab"),
        (b"01", b"c"),
        (b"02", b"d"),
    ]


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        (b"10%\r20%\r30%\r\n", ["10%", "20%", "30%"]),
        (b"a\r\r\nb\n\rc\r\n\r\n", ["a", "b", "c", ""]),
        (b"\r\r\rx\n", ["x"]),
        (b"a\0\r\0\nb\0c\n", ["a", "bc"]),
    ],
)
def test_a_bare_cr_ends_a_line_that_has_text(stream: bytes, lines: list[str]) -> None:
    assert written(stream) == "".join(f"T | {line}\n" for line in lines)


def test_a_mark_has_a_line_of_its_own_and_the_guests_goes_on_after_it() -> None:
    transcript = Transcript()
    grown = transcript.feed(b"log", NOON) + transcript.mark("vm1: BUSY\n\x1b[m", NOON)
    grown += transcript.feed(b"in: \r", NOON) + transcript.mark("vm1: ONLINE", NOON)
    grown += transcript.mark("again", NOON) + transcript.feed(b"\nroot\n", NOON)
    assert grown.decode().replace(T, "T") == (
        "T | log\nT -- vm1: BUSY\\n\\x1b[m\nT + in: \nT -- vm1: ONLINE\nT -- again\nT | root\n"
    )


def test_what_the_guest_prints_is_no_mark() -> None:
    lines = written(f"{T} -- vm1: WAITING\r{T} -- vm1\n-- vm1: BUSY\n".encode()).splitlines()
    assert len(lines) == 3
    assert not [line for line in lines if re.match(r"[^ ]* -- ", line)]


def test_long_lines_are_cut_before_a_blank_or_an_escape_sequence_if_one_comes_soon() -> None:
    assert written(b"x" * LINE_LIMIT + b"\n") == "T | " + "x" * LINE_LIMIT + "\n"
    text = b"x" * LINE_LIMIT + b"yyy\x1b[31mzzz\n"
    assert written(text) == "T | " + "x" * LINE_LIMIT + "yyy\nT + \x1b[31mzzz\n"
    for line in written("€".encode() * 10_000).split("\n"):  # .decode() is strict: none is torn
        assert len(line) <= LINE_LIMIT


def test_a_line_beyond_its_limit_is_cut_whatever_comes_with_the_rest_of_it() -> None:
    for length in range(LINE_LIMIT - 1, LINE_LIMIT + 600):
        text, rest = b"y" * length, b"x" * 9000 + b"\nz"
        assert written(text, rest) == written(text + rest), length
        assert max(map(len, written(text, rest).split("\n"))) < LINE_LIMIT + 600


@given(PIECES, st.data())
def test_the_file_is_the_same_however_the_stream_is_cut(
    pieces: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=30)))
    whole, cut = Transcript(), Transcript()
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert b"".join(cut.feed(part, NOON) for part in parts) == whole.feed(stream, NOON)
    assert cut == whole


@given(st.binary(max_size=300).map(lambda data: data.replace(b"x", b"\r\n")))
def test_the_file_is_the_same_byte_by_byte(stream: bytes) -> None:
    whole, single = Transcript(), Transcript()
    grown = b"".join(single.feed(bytes([byte]), NOON) for byte in stream)
    assert (grown, single) == (whole.feed(stream, NOON), whole)


@given(st.lists(st.tuples(st.sampled_from("gm"), PIECES.map(b"".join)), max_size=6))
def test_every_line_tells_what_it_is_and_no_text_is_lost(events: list[tuple[str, bytes]]) -> None:
    transcript = Transcript()
    stream = grown = b""
    for kind, data in events:
        if kind == "g":
            stream += data
            grown += transcript.feed(data, NOON)
        else:
            grown += transcript.mark(repr(data[:50]), NOON)
    ended = (grown + transcript.end()).split(b"\n")
    assert ended.pop() == b""
    assert all(LINE.fullmatch(line) and len(line) < COLUMN + LINE_LIMIT + 600 for line in ended)
    assert b"\r" not in grown
    guest = [line[COLUMN - 2 :] for line in ended if not line.startswith(b" -- ", COLUMN - 3)]
    # Glue what was cut, and forget what ends a line: the texts are what came.
    text = b"".join(line[2:] if line[:1] == b"+" else b"\n" + line[2:] for line in guest)
    assert re.findall(rb"[^\n]+", text) == re.findall(rb"[^\r\n]+", stream.replace(b"\0", b""))


def test_the_time_is_of_the_width_that_readers_count_on() -> None:
    for hours in (-12, 0, 5.5, 14):
        when = datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=hours)))
        assert len(stamp(when) + b" | ") == COLUMN


def test_grep_reads_the_log_of_a_noisy_line_as_text(tmp_path: Path) -> None:
    transcript = Transcript()
    noise = bytes(range(256)) * 3
    (tmp_path / "log").write_bytes(transcript.feed(b"first\r\n" + noise + b"\r\nsecond\r\n", NOON))
    done = subprocess.run(
        ["grep", "-E", "first|second", "log"],
        cwd=tmp_path,
        env={"LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{T} | first\n{T} | second\n"
