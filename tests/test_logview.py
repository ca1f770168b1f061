"""A log as it is shown: nothing of the guest's reaches the terminal but text."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.logs.transcript import Transcript
from bridge.logs.view import View, parse_since, render

T = b"2026-11-24T12:00:00.123+00:00"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone(timedelta(hours=2)))

TEXT = st.lists(
    st.sampled_from(
        [
            b"a",
            b" ",
            b"\n",
            b"\t",
            b"\b",
            b"\x1b",
            b"\x1b[",
            b"3",
            b"m",
            b"\x1b]0;",
            b"\x07",
            b"\x1b\\",
            "ü".encode(),
            b"\xc3",
            b"\x9b",
            "\u202e".encode(),
            b"\x7f",
            b"\r",
            b"P",
            b"(",
        ]
    ),
    max_size=30,
).map(b"".join)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"\x1b[1;31mred\x1b[m\ttab gr\xc3\xbcn", "red\ttab grün"),
        (b"\x1b]0;title\x07\x1bPq#0\x1b\\\x1b(B\x1b=\x1bcx", "x"),
        (b"\x1b]0;a title without an end", r"\x1b]0;a title without an end"),
        (b"bax\b \bd", "bad"),
        (b"\b\b\bx", "x"),
        (b"3 \b\b\b 2", " 2"),
        (b"\x07\x00\x7f\xff \xe2\x80\xae", r"\x07\x00\x7f\xff \u202e"),
        ("\u2028\x85".encode(), r"\u2028\x85"),
    ],
)
def test_what_a_terminal_would_show_is_shown(text: bytes, shown: str) -> None:
    assert render(T + b" | " + text) == f"{T.decode()} | {shown}"


@given(TEXT)
def test_nothing_rendered_moves_a_cursor_and_no_line_is_lost(text: bytes) -> None:
    shown = render(text)
    assert shown.replace("\n", "").replace("\t", "").isprintable()
    assert shown.count("\n") == text.count(b"\n")


@given(TEXT, st.data())
def test_it_is_the_same_however_it_is_read_but_for_lines_that_turn_out_otherwise(
    text: bytes, data: st.DataObject
) -> None:
    log = Transcript().feed(text, NOW) + b"\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=10)))
    view, whole = View(), render(log)
    seen = b"".join(
        view.feed(log[a:b]) for a, b in zip([0, *cuts], [*cuts, len(log)], strict=True)
    ).decode()
    # A line that had been begun with a text that a backspace then changed is shown anew.
    if b"\b" not in text and b"\x1b" not in text:
        assert seen == whole
    wanted = [line for line in whole.split("\n") if line]
    lines = iter(seen.split("\n"))
    assert all(line in lines for line in wanted)


def test_an_unfinished_line_is_shown_once() -> None:
    view = View()
    assert view.feed(T + b" | log") == T + b" | log"
    assert view.feed(b"in: \x1b[3") == b"in: "
    assert view.feed(b"1mx\xc3") == b"x"
    assert view.feed(b"\xbc\nnext") == "ü\nnext".encode()
    assert view.end() == b"\n"
    assert view.end() == b""


def test_a_line_that_was_corrected_is_shown_again_when_it_is_done() -> None:
    view = View()
    assert view.feed(T + b" | lx") == T + b" | lx"
    assert view.feed(b"\bs") == b""
    assert view.feed(b" -l") == b""
    assert view.feed(b"\n") == b"\n" + T + b" | ls -l\n"


def test_grep_looks_at_the_text_as_it_is_shown() -> None:
    lines = [b" | \x1b[1mK\x1b[mernel panic", b" | fine", b" -- vm1: BUSY: x", b" | 12:00 o'clock"]
    log = b"".join(T + line + b"\n" for line in lines)

    def found(regex: str, *, raw: bool = False) -> list[bytes]:
        shown = View(re.compile(regex), raw=raw).feed(log)
        return [line.removeprefix(T) for line in shown.splitlines()]

    assert found("^Kernel p") == [b" | Kernel panic"]
    assert found("^Kernel p", raw=True) == [lines[0]]
    assert found("^vm1: B") == [lines[2]]
    assert found("12:00") == [lines[3]]
    assert found("2026") == []
    assert found("") == [b" | Kernel panic", *lines[1:]]


def test_grep_shows_a_prompt_that_matches() -> None:
    view = View(re.compile("login:"))
    assert view.feed(T + b" | boot\n" + T + b" | log") == b""
    assert view.feed(b"in: ") == T + b" | login: "
    assert view.feed(b"root\n" + T + b" | # ") == b"root\n"


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("10min", NOW - timedelta(minutes=10)),
        ("1d2h", NOW - timedelta(hours=26)),
        ("2w", NOW - timedelta(days=14)),
        ("2026-11-23T10:00:01+00:00", datetime(2026, 11, 23, 10, 0, 1, tzinfo=UTC)),
        ("2026-11-23T10:00Z", datetime(2026, 11, 23, 10, tzinfo=UTC)),
        ("2026-11-23", datetime(2026, 11, 23).astimezone()),
        ("2026-11-23 10:00", datetime(2026, 11, 23, 10).astimezone()),
        ("9:05", datetime(2026, 11, 24, 9, 5).astimezone()),
        ("19:05:30", datetime(2026, 11, 24, 19, 5, 30).astimezone()),
    ],
)
def test_since_when(text: str, when: datetime) -> None:
    assert parse_since(text, NOW) == when


@pytest.mark.parametrize("text", ["", "x", "10", "10 min", "10m", "-1h", "25:00", "9" * 9 + "w"])
def test_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: 90s"):
        parse_since(text, NOW)
