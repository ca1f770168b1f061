"""What of a console's past output is shown to a terminal that attaches.

A terminal answers some sequences, and would type the answer into the guest, which asked
long ago and has been answered.  So of the past only what is known to be harmless is let
through: there are many queries, and new ones every year, but what moves a cursor and
colours a text is known.  The live stream is not touched.

The bytes are cut into sequences as a VT500 parser does it (ECMA-48 with DEC's additions:
control bytes act within a sequence, CAN and SUB abort it, ESC begins another), in UTF-8
and with the 8-bit controls, raw and as characters.  Where terminals differ (in what
follows a broken sequence) it does not matter how it is read: what is let through is whole
and means the same to all of them.
"""

import re

# Within a sequence these are executed, if anything, and the sequence goes on.
_EXECUTED = r"\x00-\x17\x19\x1c-\x1f\x7f"
# What a screen obeys: BS HT LF VT FF CR SO SI.  The other control bytes move nothing, and
# some are worse: terminals answer ENQ, XOFF stops a terminal line, CAN begins minicom's
# ZMODEM download; and nobody wants to hear the bells of an hour ago.
_OBEYED = r"\x08-\x0f"

# The Unicode standard, table 3-7, without the controls (U+0080 to U+009F).
_CHARACTER = r"""(?:
    \xc2[\xa0-\xbf] | [\xc3-\xdf][\x80-\xbf]
  | (?: \xe0[\xa0-\xbf] | [\xe1-\xec\xee\xef][\x80-\xbf] | \xed[\x80-\x9f] ) [\x80-\xbf]
  | (?: \xf0[\x90-\xbf] | [\xf1-\xf3][\x80-\xbf] | \xf4[\x80-\x8f] ) [\x80-\xbf]{2} )"""
_BEGUN_CHARACTER = r"""(?:
    [\xc2-\xf4] | \xe0[\xa0-\xbf] | [\xe1-\xec\xee\xef][\x80-\xbf] | \xed[\x80-\x9f]
  | (?: \xf0[\x90-\xbf] | [\xf1-\xf3][\x80-\xbf] | \xf4[\x80-\x8f] ) [\x80-\xbf]? )\Z"""

# The begin of each kind of sequence: all but the last byte or, of a string, its terminator.
# Each byte can be read in one way only, so that what does not match fails in linear time.
# (Possessive groups would promise that, too; Python 3.11.2 matches them wrongly, gh-106052.)
_IN_STRING = rf"{_CHARACTER} | {_BEGUN_CHARACTER} | (?!{_CHARACTER}|\xc2[\x80-\x9f])[\xa0-\xff]"
_OSC = rf"""(?: \x1b[{_EXECUTED}]*+\] | \xc2?\x9d )
    (?: [^\x07\x18\x1a\x1b\x80-\xff] | {_IN_STRING} )*"""
_OTHER_STRING = rf"""(?: \x1b[{_EXECUTED}]*+[PX^_] | \xc2?[\x90\x98\x9e\x9f] )
    (?: [^\x18\x1a\x1b\x80-\xff] | {_IN_STRING} )*"""
_CSI = rf"(?: \x1b[{_EXECUTED}]*+\[ | \xc2?\x9b ) [{_EXECUTED}\x20-\x3f]*+"
_ESC = rf"\x1b[{_EXECUTED}\x20-\x2f]*+"


def _compile(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode(), re.VERBOSE | re.DOTALL)


# The past, a piece at a time.  A sequence without its last byte was aborted, or is where
# the past ends.
_PIECE = _compile(rf"""
    (?P<text> (?: [{_OBEYED}\x20-\x7e]++ | {_CHARACTER} )+ )
  | (?P<string> {_OSC} (?: \x07 | \x1b\\ | \xc2?\x9c | \x1b\Z )?
              | {_OTHER_STRING} (?: \x1b\\ | \xc2?\x9c | \x1b\Z )? )
  | (?P<control> {_CSI} [\x40-\x7e]? | {_ESC} [\x30-\x7e]? | \xc2[\x80-\x9f] )
  | (?P<rest> {_BEGUN_CHARACTER} | [\x00-\x07\x10-\x1a\x1c-\x1f\x7f]++ | [\x80-\xff] )""")
_BEGUN = _compile(_BEGUN_CHARACTER)
_UNFINISHED = _compile(
    rf"(?: {_OSC} \x1b? | {_OTHER_STRING} \x1b? | {_CSI} | {_ESC} | {_BEGUN_CHARACTER} )\Z"
)
_WITHIN_ESC = _compile(rf"\x1b[{_EXECUTED}]+")

# To a terminal that was started without a UTF-8 locale, these begin a CSI or a string: the
# Czech "věc" has a CSI c in it, to which minicom and screen answer then.  A CAN behind the
# character ends that, and no terminal that we have tried shows it.  (Nothing helps against
# 0x9a, DECID; none of them answers to it in that form.)
_AMBIGUOUS = _compile(r"[\xc2-\xf4] [\x80-\xbf]* [\x90\x98\x9b\x9d-\x9f] [\x80-\xbf]*")

# Modes that change how the screen looks, or what keys and mouse send when they are used.
# Not among them: reports that begin by themselves (1004 focus, 2031 colours, 2048 size),
# which may only be ended, and 2, VT52, where all of this would mean something else.
_MODE = r"(?: [13-9] | 12 | 25 | 45 | 47 | 66 | 69 | 100[023567] | 101[56] | 104[789] | 2004 )"
_REPORTS = r"(?: 1004 | 2031 | 2048 )"
# Six digits would be no place on any screen but, in REP, a long wait.
_NUMBERS = r"(?: [0-9]{0,5}[;:] )* [0-9]{0,5}"
_HARMLESS = _compile(rf"""
    \x1b (?: [78=>DEHMc]            # cursor saved and restored, keypad, IND NEL HTS RI, reset
           | [()*+][0-9A-Z<=>`]     # character sets
           | \#[3-68] )             # line sizes, DECALN
  | \x1b\[ (?: {_NUMBERS} [@A-IK-MPSXZ`abd-gmrsu]  # moving, erasing, scrolling, colours
             | \??[0-2]? J                      # 3 would erase what the user has scrolled away
             | [0-9]{{0,5}} T                   # with more numbers it is a kind of mouse tracking
             | \?[0-2]? K
             | (?: 4 | 20 )[hl]
             | \?{_MODE} (?: ;{_MODE} )* [hl]
             | \?{_REPORTS} (?: ;{_REPORTS} )* l
             | [0-9]? \x20q                     # the cursor's shape
             | !p )                             # soft reset
  | \x1b\] [0128];                  # titles, links
    (?: [\x20-\x7e] | {_CHARACTER} )* (?: \x07 | \x1b\\ )""")


def _all_but(kept: str) -> bytes:
    """All bytes that the set ``kept`` has not."""
    return re.sub(rf"[{kept}]".encode(), b"", bytes(range(256)))


_NOT_EXECUTED = _all_but(_OBEYED)
_NOT_SHOWN = _all_but(rf"{_OBEYED}\x20-\x7e\xa0-\xff")
# In what goes on with the live stream, bytes that were apart must not come together.
_NOT_KEPT = _all_but(rf"{_OBEYED}\x1b\x20-\xff")
_TO_NUL = bytes.maketrans(_NOT_KEPT, bytes(len(_NOT_KEPT)))
_WITHIN = _all_but(r"\x18\x1a\x1b\x20-\x7e\x80-\xff")


def replay(past: bytes, *, cut: bool) -> bytes:
    """Return what may be shown of ``past``, which the live stream follows directly.

    ``cut`` tells that ``past`` is not all there was: it then starts with a line.  What is
    begun and not finished at the end stays, for the live stream goes on with it.
    """
    if cut:
        past = past[_start(past) :]
    end = len(past) - unfinished(past)
    shown = _PIECE.sub(_harmless, past[:end])
    if _BEGUN.search(shown, max(0, len(shown) - 3)):
        # A byte that is no UTF-8, and what was behind it is left out: with what comes next
        # it must not become a character.
        shown += b"\0"
    return shown + past[end:].translate(_TO_NUL)


def unfinished(past: bytes) -> int:
    """How many bytes at the end of ``past`` begin a sequence or a character."""
    # ESC begins something new whatever was before it; but a last one may be the first half
    # of a string's terminator.
    start = max(0, past.rfind(b"\x1b", 0, -1))
    last = None
    for last in _PIECE.finditer(past, start):  # noqa: B007 (only the last is wanted)
        pass
    if last is None or last.end() < len(past) or not _UNFINISHED.fullmatch(last[0]):
        return 0
    return len(last[0])


def _start(past: bytes) -> int:
    """Where in ``past``, whose beginning is missing, one can start to read.

    A full-screen program may send no line ends: rather than half of what there is, lose
    the line's start.  ESC begins something new whatever was before it.
    """
    line = past.find(b"\n", 0, len(past) // 2) + 1
    if line:
        return line
    safe = re.search(rb"(?<=\r)|\x1b", past)
    if safe is None:
        safe = re.search(rb"[^\x80-\xbf]|\Z", past)
    assert safe is not None  # each string has an end
    return safe.start()


def _harmless(piece: re.Match[bytes]) -> bytes:
    """Return what is shown of a piece."""
    found = piece[0]
    match piece.lastgroup:
        case "text":
            return found if found.isascii() else _AMBIGUOUS.sub(b"\\g<0>\x18", found)
        case "string":
            within_esc = _WITHIN_ESC.match(found)
            executed = within_esc[0].translate(None, _NOT_EXECUTED) if within_esc else b""
            harmless = _HARMLESS.fullmatch(found) and not _AMBIGUOUS.search(found)
            return executed + (found if harmless else b"")
        case "control":
            # What is executed within a sequence is executed before it.
            executed = found.translate(None, _NOT_EXECUTED)
            sequence = found.translate(None, _WITHIN)
            return executed + (sequence if _HARMLESS.fullmatch(sequence) else b"")
        case _:
            return found.translate(None, _NOT_SHOWN)
