"""What is looked for in output: whole, byte by byte, and properties of both."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.base.escapes import shown, shown_end
from bridge.base.search import KEPT, WINDOW, Search

# Text, escape sequences whole and cut, bytes that are not UTF-8.
PIECES = st.sampled_from(
    [
        *(b"a", b"b", b"\r", b"\n", b"\t", b"\0", b"\x1b", b"\x9b", b"\xff", "ü".encode()),
        *(b"\x1b[31m", b"\x1b[", b"\x1b]0;title\x07", b"\x1b]0;", b"\x1b\\", b"\x1bPq", b"\x07"),
    ]
)
OUTPUT = st.lists(PIECES).map(b"".join)


def search(output: bytes) -> Search:
    fed = Search()
    fed.feed(output)
    return fed


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (b"plain\ttext\r\n", "plain\ttext\n"),
        (b"\x1b[1;31mred\x1b[m \x1b(Bx\x1b7", "red x"),
        (b"\x1b]0;root@vm: ~\x07vm# ", "vm# "),
        (b"\x1b]0;root@vm: ~\x1b\\vm# ", "vm# "),
        (b"vm# \x1b[", "vm# "),
        (b"vm# \x1b]0;root@vm", "vm# "),  # not over yet: no text
        (b"vm# \x1b]0;root@vm\x1b", "vm# "),
        (b"\x1b]0;never ended\r\nlogin: ", "]0;never ended\nlogin: "),
        ("grün".encode(), "grün"),
        (b"\xff", "\udcff"),
    ],
)
def test_shown(output: bytes, text: str) -> None:
    assert shown(output) == text


@given(OUTPUT, st.data())
def test_where_a_text_ends_is_known(output: bytes, data: st.DataObject) -> None:
    text = shown(output)
    length = data.draw(st.integers(0, len(text)))
    end = shown_end(output, text[:length])
    assert end <= len(output)
    # Nothing of the text is in both halves, or in neither; what is hidden is in the second.
    if b"\x1b" not in output:
        assert shown(output[:end]) + shown(output[end:]) == text
        assert shown(output[:end]) == text[:length]


@given(OUTPUT)
def test_byte_by_byte_is_as_whole(output: bytes) -> None:
    """What a prefix shows may wait for its rest, but never shows what turns out hidden."""
    for pattern in (re.compile("a"), re.compile(r"^b", re.MULTILINE), re.compile("ü")):
        whole, fed = search(output), Search()
        found, pieces = whole.find(pattern), None
        for byte in output:
            fed.feed(bytes([byte]))
            pieces = pieces or fed.find(pattern, again=True)
        if found is not None and pieces is not None:
            assert pieces.before == found.before
        elif found is None:
            assert pieces is None or b"\x1b]" in output or b"\x1bP" in output


@given(OUTPUT)
def test_character_by_character_nothing_is_lost_or_found_twice(output: bytes) -> None:
    fed, seen = search(output), ""
    while found := fed.find(re.compile("(?s)..?")):
        seen += found.before + found.text
    assert seen == shown(output)


def test_a_title_that_comes_in_pieces_is_never_text() -> None:
    fed = Search()
    for byte in b"\x1b]0;root@vm: login: \x07vm# ":
        fed.feed(bytes([byte]))
        assert fed.find(re.compile("login: "), again=True) is None
    assert fed.text == "vm# "


def test_what_is_found_is_taken_and_what_follows_is_left() -> None:
    fed = search(b"one\r\n\x1b[31mtwo\x1b[m three")
    found = fed.find(re.compile("^t(.)o", re.MULTILINE))
    assert found is not None
    assert (found.before, found.text, found.match[1]) == ("one\n", "two", "w")
    assert fed.take(3) == b"\x1b[m"
    assert fed.take() == b" three"
    assert fed.take() == b""


def test_a_match_may_lie_across_pieces_and_far_behind_them() -> None:
    fed = Search()
    fed.feed(b"login")
    assert fed.find(re.compile("login: ")) is None
    fed.feed(b": ")
    assert fed.find(re.compile("login: "), again=True)
    # Another pattern looks at all that is there.
    fed.feed(b"first\n" + b"x" * 2 * WINDOW + b"\n")
    assert fed.find(re.compile("nothing"), again=True) is None
    fed.feed(b"last\n")
    assert fed.find(re.compile("^last", re.MULTILINE), again=True)
    fed.feed(b"first\n" + b"x\n" * 2 * WINDOW)
    fed.feed(b"last\n")
    found = fed.find(re.compile("^first", re.MULTILINE))
    assert found is not None


def test_what_came_before_is_whole_and_memory_is_bounded() -> None:
    fed = Search()
    lines = b"".join(b"%07d\n" % n for n in range(4 * KEPT // 8))
    for at in range(0, len(lines), 50_000):
        fed.feed(lines[at : at + 50_000])
        assert len(fed.text) <= 2 * KEPT
    fed.feed(b"end")
    found = fed.find(re.compile("end"), again=True)
    assert found is not None
    assert len(found.before) >= KEPT
    assert lines.decode().endswith("\n" + found.before)  # by lines
