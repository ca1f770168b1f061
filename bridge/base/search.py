"""What is looked for in a guest's output: a text, as a person would see it, and where it ends."""

import re
from dataclasses import dataclass

from bridge.base.escapes import shown, shown_end

# Output in which a match may begin; what is older is not looked at again.  The search is
# through all of it at each piece that comes, so that more would make a flood outrun us.
WINDOW = 1 << 16

# What is kept, at least, for those who ask for what came before a match.
KEPT = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """What was looked for, with what came before it; both without escape sequences."""

    before: str
    match: re.Match[str]

    @property
    def text(self) -> str:
        """What matched."""
        return self.match[0]


class Search:
    """Output that nobody has taken yet; ``find`` takes what it finds."""

    def __init__(self) -> None:
        self._output = bytearray()
        self._last = 0  # the length of the piece that came last

    def feed(self, data: bytes) -> None:
        """Take more output; the oldest is forgotten, by lines."""
        self._output += data
        self._last = len(data)
        if len(self._output) > 2 * KEPT:
            del self._output[: self._line_start(len(self._output) - KEPT)]

    def find(self, pattern: re.Pattern[str], *, again: bool = False) -> Found | None:
        """The first match, taken out together with what is before it.

        ``again`` says that only what came last has not been looked at with this pattern.
        """
        oldest = len(self._output) - self._last - WINDOW
        start = self._line_start(oldest) if again and oldest > 0 else 0
        near = bytes(self._output[start:])
        text = shown(near)
        match = pattern.search(text)
        if match is None:
            return None
        before = shown(bytes(self._output[:start])) + text[: match.start()]
        del self._output[: start + shown_end(near, text[: match.end()])]
        return Found(before, match)

    def take(self, limit: int | None = None) -> bytes:
        """Take the bytes that are left, or so many of them."""
        taken = bytes(self._output[:limit])
        del self._output[:limit]
        return taken

    @property
    def text(self) -> str:
        """What is left, as a person would see it."""
        return shown(bytes(self._output))

    def _line_start(self, at: int) -> int:
        """Where the line begins that ``at`` is in: amid no sequence, and right for ``^``."""
        return self._output.rfind(b"\n", max(0, at - WINDOW), at) + 1 or at
