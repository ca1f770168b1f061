"""What of the past is shown: all text, nothing that a terminal answers, and a whole end."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.console.replay import replay, unfinished
from tests.support.answering import EIGHT_BIT_KINDS, KINDS, Answering, Kind

pytestmark = pytest.mark.timeout(600)  # 10 000 examples on a busy machine

QUERIES = {
    "ENQ": b"\x05",
    "DECID": b"\x1bZ",
    "DA1": b"\x1b[c",
    "DA1 with a parameter": b"\x1b[0c",
    "DA2": b"\x1b[>c",
    "DA3": b"\x1b[=c",
    "DSR": b"\x1b[5n",
    "CPR": b"\x1b[6n",
    "DECXCPR": b"\x1b[?6n",
    "DSR of printer, keys, keyboard": b"\x1b[?15n\x1b[?25n\x1b[?26n",
    "DSR of locator, macros, memory": b"\x1b[?55n\x1b[?62n\x1b[?63n",
    "colour scheme": b"\x1b[?996n",
    "DECRQM": b"\x1b[4$p\x1b[?2026$p",
    "DECREQTPARM": b"\x1b[x\x1b[1x",
    "XTVERSION": b"\x1b[>q\x1b[>0q",
    "kitty keyboard": b"\x1b[?u",
    "XTQMODKEYS": b"\x1b[?4m",
    "XTSMGRAPHICS": b"\x1b[?1;1;0S",
    "XTWINOPS": b"\x1b[11t\x1b[13t\x1b[14t\x1b[14;2t\x1b[15t\x1b[16t\x1b[18t\x1b[19t",
    "XTWINOPS titles": b"\x1b[20t\x1b[21t",
    "DECRQPSR, DECRQTSR": b"\x1b[1$w\x1b[2$w\x1b[1$u",
    "DECRQCRA": b"\x1b[1;1;1;1;2;2*y",
    "DECRQUPSS, DECRQDE, locator": b"\x1b[&u\x1b[\"v\x1b[1'|",
    "XTREPORTSGR, XTREPORTCOLORS": b"\x1b[1;1;1;1#|\x1b[#R",
    "media copy": b"\x1b[i\x1b[?1i\x1b[5i\x1b[4i",
    "DECTST": b"\x1b[4;1y",
    "DECRQSS": b"\x1bP$qm\x1b\\\x1bP$q q\x1b\\",
    "XTGETTCAP": b"\x1bP+q544e\x1b\\",
    "sixel": b"\x1bPq#0;2;0;0;0#0~~\x1b\\",
    "colours": b"\x1b]4;0;?\x07\x1b]10;?\x07\x1b]11;?\x1b\\\x1b]12;?\x9c",
    "more colours": b"\x1b]5;0;?\x07\x1b]17;?\x07\x1b]19;?\x07\x1b]21;foreground=?\x1b\\",
    "clipboard": b"\x1b]52;c;?\x07",
    "notification": b"\x1b]9;hello\x07",
    "font": b"\x1b]50;?\x07",
    "features": b"\x1b]60\x07\x1b]61\x07",
    "iTerm2": b"\x1b]1337;ReportCellSize\x07",
    "kitty notifications": b"\x1b]99;i=1:p=?;\x1b\\",
    "kitty graphics": b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\",
    "SOS, PM": b"\x1bXhello\x1b\\\x1b^hello\x1b\\",
    "focus": b"\x1b[?1004h",
    "focus among others": b"\x1b[?25;1004;2004h",
    "colours that change, size that changes": b"\x1b[?2031h\x1b[?2048h",
    "win32 keys": b"\x1b[?9001h",
    "mouse highlighting": b"\x1b[?1001h\x1b[1;2;3;4;5T",
    "VT52": b"\x1b[?2l",
    "8-bit answers": b"\x1b G",
    "ISO 2022 instead of UTF-8": b"\x1b%@",
    "8-bit": b"\x9a\x9bc\x9b6n\x90$qm\x9c\x9d10;?\x9c\x9d10;?\x07",
    "8-bit as UTF-8": "\x9a\x9bc\x9b6n\x90$qm\x9c\x9d10;?\x9c\x9d10;?\x07".encode(),
    "control bytes within": b"\x1b\x0f[\x0f6\x0fn",
    "too long UTF-8": b"\xc0\x9b[6n\xe0\x80\x9b[6n\xf0\x80\x80\x9b[6n\xc1\x9b6n",
    "a begin behind one that was aborted": b"\x1b[\x1b[6n\x1b]0;\x1b[6n\x1b[3\xe9\x1b[c",
    "what the left out would have kept apart": b"\x1b\x1bZ[6n\x1b\x1bP$qm\x1b\\[c\xc2\x1bZ\x9b6n",
}
SHOWN = {
    "lines": b"one\r\n\ttwo\x0b\x0c\b three\n",
    "UTF-8": "žluťoučký kůň 漢字 €".encode(),
    "Latin-1": b"gr\xfc\xdfe, \xe9\xe9\xe9",
    "colours": b"\x1b[0;1;38;5;196;48:2::1:2:3mred\x1b[m",
    "moving": b"\x1b[H\x1b[12;40Hx\x1b[A\x1b[2B\x1b[3C\x1b[D\x1b[E\x1b[F\x1b[5G\x1b[3I\x1b[Z\x1b[4`\x1b[a",
    "more moving": b"\x1b[3d\x1b[2e\x1b[1;1f\x1b7\x1b8\x1b[s\x1b[u\x1bD\x1bE\x1bM",
    "erasing": b"\x1b[J\x1b[2J\x1b[K\x1b[1K\x1b[?J\x1b[?1K\x1b[3X",
    "inserting": b"\x1b[@\x1b[L\x1b[2M\x1b[P\x1b[4hx\x1b[4l-\x1b[10b",
    "scrolling": b"\x1b[2;23r\x1b[S\x1b[2T\x1b[r\x1bH\x1b[g\x1b[3g",
    "modes": b"\x1b[?1h\x1b=\x1b[?1;25;2004h\x1b[?1049h\x1b[?7l\x1b[?1000;1006h\x1b>\x1b[20l",
    "reports that end": b"\x1b[?1004l\x1b[?2031;2048l",
    "reset": b"\x1bc\x1b[!p\x1b[2 q\x1b[ q",
    "character sets": b"\x1b(0lqqk\x1b(B\x0e\x0f\x1b)A\x1b#8\x1b#6",
    "title": b"\x1b]0;root@vm1: ~\x07\x1b]2;caf\xc3\xa9\x1b\\",
    "link": b"\x1b]8;id=1;https://example.org/\x1b\\here\x1b]8;;\x1b\\",
}
# (past, shown) of what is let through in part, or in another form.
CHANGED = [
    (b"bell\x07, XON\x11, NUL\0, CAN\x18, DEL\x7f.", b"bell, XON, NUL, CAN, DEL."),
    (b"\x1b[3\r\n1mred", b"\r\n\x1b[31mred"),
    (b"\x1b[6\r\nn", b"\r\n"),
    (b"\x1b\n]52;c;?\x07", b"\n"),
    (b"8-bit \x9b31mred", b"8-bit red"),
    ("věc 🐎".encode(), "vě\x18c 🐎\x18".encode()),
    (b"title \x1b]0;a\x05b\x07.", b"title ."),
    (b"aborted \x1b[31\x18m", b"aborted m"),
    (b"aborted \x1bPq\x1a.\x1b]0;t\x1a.", b"aborted .."),
    (b"aborted \x1b]0;title\x1b[1mbold", b"aborted \x1b[1mbold"),
    (b"**\x18B00000000000000\r\n", b"**B00000000000000\r\n"),  # ZMODEM: minicom would receive
    (b"\x1b[H\x1b[2J\x1b[3J", b"\x1b[H\x1b[2J"),  # what the user has scrolled away stays
    (b"x\x1b[99999999b\x1b[1;99999999b\x1b[999999;1H", b"x"),
]


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_is_not_shown(name: str) -> None:
    assert re.fullmatch(rb"[^\x1b\x80-\x9f]*", replay(QUERIES[name], cut=False))
    for kind in KINDS:
        assert_silent(replay(b"a" + QUERIES[name] + b"b", cut=False), kind)


@pytest.mark.parametrize("name", QUERIES)
def test_the_answering_terminal_would_have_answered(name: str) -> None:
    """That it is silent above says something only if it is not silent here."""
    assert any(answers(QUERIES[name], kind) for kind in KINDS)


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_harmless_is_shown_as_it_is(name: str) -> None:
    assert replay(SHOWN[name] + b".", cut=False) == SHOWN[name] + b"."


@pytest.mark.parametrize(("past", "shown"), CHANGED)
def test_what_is_shown_in_part(past: bytes, shown: bytes) -> None:
    assert replay(past, cut=False) == shown


# In each of these, that which is there at the end goes on in the live stream.
ENDS = [
    b"\x1b",
    b"\x1b(",
    b"\x1b[",
    b"\x1b[?25",
    b"\x1b[6",
    b"\x1b[1\n2",
    b"\x1b]0;tit",
    b"\x1b]0;caf\xc3",
    b"\x1b]0;\xe2\x9b",
    b"\x1b]52;c;?",
    b"\x1b]0;title\x1b",
    b"\x1bP$qm",
    b"\x1bP$qm\x1b",
    b"\x1b_G",
    b"\x9b3",
    b"\xc2\x9b3",
    b"\x9d0;t",
    b"\xc2",
    b"\xe2\x82",
    b"\xf0\x9f\x90",
]


@pytest.mark.parametrize("end", ENDS)
def test_an_unfinished_end_stays(end: bytes) -> None:
    assert unfinished(b"text" + end) == len(end)
    assert replay(b"text\x1b[6n" + end, cut=False) == b"text" + end
    assert replay(b"past\ntext" + end, cut=True)[-len(end) :] == end


WHOLE = [
    *[
        b"x",
        b"\x1b[m",
        b"\x1b]0;t\x07",
        b"\x1b]0;t\x1b\\",
        b"\x1bPq\x1b\\",
        b"\x1b(B",
        b"\x1bPq\xc2\x9c",
    ],
    *[b"\x1b\x18", b"\x1b[3\x1a", b"\x1b]0;t\x18", "é漢🐎".encode(), b"\xff", b"\xe9x", b"\xc0"],
]


def test_an_unfinished_end_begins_where_what_was_before_it_is_aborted() -> None:
    assert unfinished(b"\x1bPabc\xc2\x9b3") == len(b"\xc2\x9b3")
    assert unfinished(b"\x1b]0;t\x1b[3") == len(b"\x1b[3")
    assert unfinished(b"\x1b[3\xc3") == len(b"\xc3")


@pytest.mark.parametrize("past", WHOLE)
def test_what_is_whole_has_no_unfinished_end(past: bytes) -> None:
    assert unfinished(past) == 0
    assert unfinished(b"\x1b[31" + past) == 0


@pytest.mark.parametrize(
    ("past", "shown"),
    [
        (b"half a line\nline 1\nline 2\nline 3", b"line 1\nline 2\nline 3"),
        (b"\n1\n2", b"1\n2"),
        # A full-screen program: no line ends, or only late.
        (b";31mxx\x1b[2;2Htwo\x1b[3;3Hthree", b"\x1b[2;2Htwo\x1b[3;3Hthree"),
        (b"1 %\r 2 %\r 3 %\r done\n", b" 2 %\r 3 %\r done\n"),
        (b"\x82\xacno safe place at all", b"no safe place at all"),
        (b"\x82", b""),
        (b"", b""),
    ],
)
def test_what_is_cut_starts_where_one_can_start_to_read(past: bytes, shown: bytes) -> None:
    assert replay(past, cut=True) == shown


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "unit",
    ["é漢".encode(), b"\xe2\xa0x", b"1;", b"\x1b", b"\x1b]", b"\xc2", b"\x9d", b"\x1b[\n"],
)
@pytest.mark.parametrize("start", [b"", b"\x1b[", b"\x1b]8;"])
def test_nothing_takes_long(start: bytes, unit: bytes) -> None:
    """Where a choice of how to read it is left, time grows with the square, or worse."""
    for end in (b"", b"\x07", b"\x1b\\", b"m", b"\xe2"):
        assert len(replay(start + unit * (16384 // len(unit)) + end, cut=True)) < 16500


def answers(data: bytes, kind: Kind) -> list[str]:
    terminal = Answering(kind)
    terminal.feed(data)
    return terminal.answered


def assert_silent(data: bytes, kind: Kind) -> None:
    assert answers(data, kind) == []


# Streams rich in sequences, whole, broken and mixed.

FRAGMENTS = st.one_of(
    st.sampled_from([*QUERIES.values(), *SHOWN.values(), *(past for past, _ in CHANGED)]),
    st.sampled_from(ENDS),
    st.sampled_from([b"\x1b", b"[", b"]", b"P", b"\\", b"?", b">", b"6", b"n", b"c", b";", b"$p"]),
    st.sampled_from(
        [b"\x9b", b"\x9c", b"\x90", b"\x9d", b"\x9a", b"\xc2", b"\xe2", b"\xf0", b"\xa0"]
    ),
    st.sampled_from([b"\x05", b"\x07", b"\x18", b"\x1a", b"\0", b"\r", b"\n", b"\x7f"]),
    st.integers(0, 255).map(lambda byte: bytes([byte])),
    st.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=6),
)


def mutated(stream: bytes, changes: list[tuple[int, int]]) -> bytes:
    """Overwrite a byte here and there; 256 and more leave it out."""
    for place, byte in changes:
        at = place % (len(stream) + 1)
        stream = stream[:at] + (bytes([byte]) if byte < 256 else b"") + stream[at + 1 :]
    return stream


STREAMS = st.builds(
    mutated,
    st.lists(FRAGMENTS, max_size=12).map(b"".join),
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 400)), max_size=3),
)


@given(STREAMS, st.booleans(), st.sampled_from(KINDS))
def test_no_terminal_answers(past: bytes, cut: bool, kind: Kind) -> None:
    assert_silent(replay(past, cut=cut), kind)


@given(STREAMS, st.integers(0, 60), st.integers(0, 60), st.sampled_from(KINDS))
def test_no_terminal_answers_to_a_window(stream: bytes, left: int, right: int, kind: Kind) -> None:
    """Wherever the past was cut at its begin and the attachment came at its end."""
    assert_silent(replay(stream[left : len(stream) - right], cut=left > 0), kind)


@given(STREAMS, st.sampled_from(EIGHT_BIT_KINDS))
@example("věc ⛵n Пn 🐎c".encode(), EIGHT_BIT_KINDS[0])
@example("věc ⛵n Пn 🐎c".encode(), EIGHT_BIT_KINDS[2])
@example(b"\x1b]0;v\xc4\x9bc\x07", EIGHT_BIT_KINDS[0])
def test_no_terminal_answers_that_takes_utf_8_for_8_bit_controls(past: bytes, kind: Kind) -> None:
    """But for what is unfinished and must stay as it is, and for what is within one character.

    That can be DECID or a string of hardly anything.
    """
    shown = replay(past, cut=False)
    whole = shown[: len(shown) - unfinished(shown)]
    for answered in answers(whole, kind):
        assert re.fullmatch(r"DECID|string .[\xa0-\xbf]?", answered)


@given(STREAMS)
def test_nothing_is_left_to_strip(past: bytes) -> None:
    shown = replay(past, cut=False)
    assert replay(shown, cut=False) == shown


@given(STREAMS)
def test_all_that_was_visible_is_shown(past: bytes) -> None:
    terminal, replayed = Answering(), Answering()
    terminal.feed(past)
    replayed.feed(replay(past, cut=False))
    assert replayed.shown == terminal.shown


@given(STREAMS, STREAMS)
@example(b"\xe2\x1b[6n", b"\x82\xac")
@example(b"\xe2\x1b[6n\x9b3", b"1m")
@example(b"\x1b]0;title\x1b", b"\\")
@example(b"\x1b]0;caf\xc3\x05", b"\x9b\x05")
def test_the_live_stream_means_what_it_did(past: bytes, live: bytes) -> None:
    """It goes on in the state in which the past had left a terminal."""
    terminal, replayed = Answering(), Answering()
    terminal.feed(past)
    replayed.feed(replay(past, cut=False))
    before, replayed_before = len(terminal.events), len(replayed.events)
    terminal.feed(live)
    replayed.feed(live)
    assert replayed.events[replayed_before:] == terminal.events[before:]


@given(STREAMS, st.booleans())
def test_a_notice_is_seen_where_nothing_is_unfinished_or_behind_a_can(
    past: bytes, can: bool
) -> None:
    if can:
        past += b"\x18"
        assert not unfinished(past)
    if not unfinished(past):
        terminal = Answering()
        terminal.feed(past)
        before = len(terminal.shown)
        terminal.feed(b"notice")
        assert terminal.shown[before:] == b"notice"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("\r\n\t\b")))
def test_text_is_shown_as_it_is(text: str) -> None:
    assert replay(text.encode(), cut=False).replace(b"\x18", b"") == text.encode()


@given(st.text(st.characters(max_codepoint=0x24F, exclude_categories=["Cc"])))
def test_a_can_is_only_where_an_8_bit_terminal_needs_it(text: str) -> None:
    shown = replay(text.encode(), cut=False)
    assert shown == re.sub(rb"([\xc2-\xff][\x90\x98\x9b\x9d-\x9f])", b"\\1\x18", text.encode())
