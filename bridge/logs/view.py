"""A log's lines made fit for a terminal, and the words that say since when.  Pure.

What comes from a guest is hostile to whoever looks at it (CWE-150): escape sequences are
taken out, and what is left that no terminal shows is escaped as ``printable`` does.  A
backspace does what it does on a terminal, within its line's text: what was typed and
corrected reads as it was meant.
"""

import re
from datetime import datetime, timedelta

from bridge.base.escapes import ESCAPES
from bridge.base.printable import printable
from bridge.logs.transcript import COLUMN

SINCE = "90s, 10min, 2h, 1d, 1w, or a date, a time or both as in 2026-11-24T20:15"

# What may be the beginning of an escape sequence or of a character of UTF-8.
_TORN = re.compile(
    rb"(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b\n]*\x1b?|[ -/]*)|[\xc0-\xf7][\x80-\xbf]{0,2})\Z"
)

_UNITS = {
    "s": timedelta(seconds=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_SPAN = re.compile(r"(?:[0-9]{1,9}(?:s|min|h|d|w))+")


def parse_since(text: str, now: datetime) -> datetime:
    """The time that ``text`` means; ``now`` is aware.  Raises ValueError, which says what may be."""
    try:
        return _since(text, now)
    except (ValueError, OverflowError):
        raise ValueError(f"allowed: {SINCE}") from None


def _since(text: str, now: datetime) -> datetime:
    if _SPAN.fullmatch(text):
        parts = re.findall(r"([0-9]+)([a-z]+)", text)
        return now - sum((int(count) * _UNITS[unit] for count, unit in parts), timedelta())
    if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?", text):
        hour, rest = text.split(":", 1)
        text = f"{now.date()}T{hour:0>2}:{rest}"
    when = datetime.fromisoformat(text)
    return when if when.tzinfo is not None else when.astimezone(now.tzinfo)


def render(lines: bytes) -> str:
    """Whole lines of a log, as many as they were, fit to be printed."""
    text = lines.decode("utf-8", "backslashreplace")
    if "\x1b" in text:
        text = ESCAPES.sub("", text)
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "\n".join(map(_render_line, text.split("\n")))


def _render_line(line: str) -> str:
    if "\b" in line:
        line = line[:COLUMN] + _overwrite(line[COLUMN:])
    return "\t".join(printable(part, len(part)) for part in line.split("\t"))


def _overwrite(text: str) -> str:
    """What a terminal shows in the end of a text with backspaces."""
    cells: list[str] = []
    at = 0
    for character in text:
        if character == "\b":
            at = max(at - 1, 0)
        else:
            cells[at : at + 1] = character
            at += 1
    return "".join(cells)


class View:
    """Turns what is read of a log, in any pieces, into what is to be printed of it."""

    def __init__(self, pattern: re.Pattern[str] | None = None, *, raw: bool = False) -> None:
        self._pattern = pattern
        self._raw = raw
        self._open = b""  # the unfinished line
        self._shown = b""  # what has been printed of it

    def feed(self, data: bytes) -> bytes:
        """More of the log; an unfinished line is shown as far as it has come."""
        data = self._open + data
        end = data.rfind(b"\n") + 1
        shown = self._finished(data[:end]) if end else b""
        self._open = data[end:]
        # One that has come out otherwise (by a backspace) than it began waits for its end.
        now = self._lines(_TORN.sub(b"", self._open))
        if now.startswith(self._shown):
            shown += now[len(self._shown) :]
            self._shown = now
        return shown

    def end(self) -> bytes:
        """The log ends here, maybe amid a line."""
        return self.feed(b"\n") if self._open else b""

    def _finished(self, data: bytes) -> bytes:
        begun, self._shown = self._shown, b""
        if not begun:
            return self._lines(data)
        first, _, others = data.partition(b"\n")
        line = first if self._raw else render(first).encode()
        rest = line[len(begun) :] if line.startswith(begun) else b"\n" + line
        return rest + b"\n" + self._lines(others)

    def _lines(self, data: bytes) -> bytes:
        """Those of these lines that are wanted, as they are wanted."""
        if self._pattern is None:
            return data if self._raw else render(data).encode()
        rendered = render(data).split("\n")
        wanted = [self._matches(line) for line in rendered]
        lines = data.split(b"\n") if self._raw else [line.encode() for line in rendered]
        ends = [b"\n"] * (len(lines) - 1) + [b""]
        return b"".join(line + end for line, end, w in zip(lines, ends, wanted, strict=True) if w)

    def _matches(self, line: str) -> bool:
        """Does its text match?"""
        assert self._pattern is not None
        start = COLUMN + line.startswith("--", COLUMN - 2)  # a mark's begins one further
        return bool(line) and self._pattern.search(line[start:]) is not None
