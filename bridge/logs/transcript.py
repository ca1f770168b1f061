"""A console's stream as a text file for ``grep`` and ``less -R``.  Pure: times are passed in.

Every line of the file begins with a time of 29 characters and says in the next three what
it is::

    2026-11-24T20:15:03.123+00:00 | a line of the guest
    2026-11-24T20:15:03.456+00:00 + more of it: a mark or its length had cut it
    2026-11-24T20:15:04.001+00:00 -- vm1: WAITING: connection refused

That third column is ours alone, since we begin every line: a guest that prints a time and
``-- vm1: WAITING`` gets a ``|`` before it, and ``grep '^[^ ]* -- '`` finds marks and nothing
else.  Text begins in column 32, so that a guest's tabs stand where its terminal has them.

The text is as it came, colours included, but for what a text file cannot hold:

- CR LF is LF, and so is a bare CR within a line: a progress bar becomes a line per step,
  each with its time.  (To keep the CRs would let a guest overprint the time wherever the
  file is shown; to keep only the last step would lose text.)
- NUL is left out.  Terminals ignore it, and for one NUL grep calls the whole file binary.

What comes is passed on at once, an unfinished line (a prompt) too: nothing is held back
but a CR, so no timer is needed and memory is bounded.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from bridge.base.printable import printable

GUEST = b" | "
MORE = b" + "
MARK = b" -- "
_STAMP = 29
COLUMN = 32

# A longer line is cut: before a blank or an escape sequence, if one comes soon.  A kernel's
# message has 1 KiB at most; 8 KiB are a screenful.
LINE_LIMIT = 8192
_SOON = 512

_CR_LF = re.compile(rb"\r+\n")
_IDLE_CR = re.compile(rb"(?<=\n)\r+")
_CR = re.compile(rb"\r+")
_GOOD_CUT = re.compile(rb"[ \x1b]")
_CHARACTER = re.compile(rb"[^\x80-\xbf]")  # the first byte of one, in UTF-8


def stamp(when: datetime) -> bytes:
    """The time that begins a line; ``when`` is aware."""
    return when.isoformat(timespec="milliseconds").encode()


def time_of(line: bytes) -> datetime | None:
    """The time that begins ``line``; None if none does (a line that a crash has cut)."""
    try:
        when = datetime.fromisoformat(line[:_STAMP].decode("ascii"))
    except ValueError:
        return None
    return when if when.tzinfo is not None and line[_STAMP : _STAMP + 1] == b" " else None


def mark(text: str, when: datetime) -> bytes:
    """A whole line that is ours; for use where no line is open."""
    return stamp(when) + MARK + printable(text, 1000).encode() + b"\n"


@dataclass(slots=True)
class Transcript:
    """The stream so far, as far as the next byte's place depends on it; made of plain values."""

    length: int = 0
    """Bytes of text in the file's unfinished line; 0: the next byte begins a line."""
    cut: bool = False
    """The guest's line goes on, but the file's was ended."""
    cr: bool = False
    """The last byte was a CR that may turn out to be half of CR LF."""

    def feed(self, data: bytes, when: datetime) -> bytes:
        """What the file grows by for ``data``, which came at ``when``."""
        if not (data := self._normal(data)):
            return b""
        time = stamp(when)
        if not self.cut and self._short(data):
            return self._bulk(data, time + GUEST)
        first, *others = data.split(b"\n")
        grown = [self._text(first, time)]
        for line in others:
            grown += self._newline(time), self._text(line, time)
        return b"".join(grown)

    def mark(self, text: str, when: datetime) -> bytes:
        """What the file grows by for a change of state, which gets a line of its own."""
        return self.end() + mark(text, when)

    def end(self) -> bytes:
        """End the file's line if one is open; the guest's goes on."""
        if not self.length:
            return b""
        self.length, self.cut = 0, True
        return b"\n"

    def _normal(self, data: bytes) -> bytes:
        """``data`` without NUL, and with LF for each CR LF and each CR that ends a text."""
        if b"\0" in data:
            data = data.replace(b"\0", b"")
        if self.cr:
            data, self.cr = b"\r" + data, False
        if b"\r" not in data:
            return data
        if data.endswith(b"\r"):
            data, self.cr = data.rstrip(b"\r"), True
        data = data.replace(b"\r\n", b"\n")
        if b"\r" in data:
            data = _IDLE_CR.sub(b"", _CR_LF.sub(b"\n", data))
            if not self.length and not self.cut:
                data = data.lstrip(b"\r")
            data = _CR.sub(b"\n", data)
        return data

    def _short(self, data: bytes) -> bool:
        """Is no line longer than the file's may be?"""
        end, left = 0, max(LINE_LIMIT - self.length, 0)
        while end + left < len(data):
            if not (end := data.rfind(b"\n", end, end + left + 1) + 1):
                return False
            left = LINE_LIMIT
        return True

    def _bulk(self, data: bytes, begin: bytes) -> bytes:
        """Any number of short lines in a handful of calls."""
        grown = data.replace(b"\n", b"\n" + begin)
        if not self.length:
            grown = begin + grown
        last = len(data) - (data.rfind(b"\n") + 1)
        self.length = last if last < len(data) else self.length + last
        return grown if self.length else grown[: -len(begin)]

    def _newline(self, time: bytes) -> bytes:
        if self.length:
            self.length = 0
            return b"\n"
        if self.cut:  # the file's line is ended already
            self.cut = False
            return b""
        return time + GUEST + b"\n"

    def _text(self, text: bytes, time: bytes) -> bytes:
        """More of a line, without its end."""
        grown = []
        while text:
            if not self.length:
                grown.append(time + (MORE if self.cut else GUEST))
                self.cut = False
            at = self._cut(text)
            grown.append(text[:at])
            self.length += at
            if text := text[at:]:
                grown.append(self.end())
        return b"".join(grown)

    def _cut(self, text: bytes) -> int:
        """How much of ``text`` the file's line still takes.

        Depends only on each byte and how many stand before it, so that the pieces in which
        a line comes make no difference.
        """
        soft = LINE_LIMIT - self.length
        if len(text) <= soft:
            return len(text)
        hard = max(soft + _SOON, 0)
        if blank := _GOOD_CUT.search(text, max(soft, 0), hard):
            return blank.start()
        last = max(soft + _SOON + 3, 0)
        if character := _CHARACTER.search(text, hard, last):
            return character.start()
        return min(last, len(text))
