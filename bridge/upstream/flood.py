"""When is a guest that prints without end read?  Pure."""

import math


class Flood:
    """Lets a guest that prints without end be read once a millisecond, not per handful of bytes.

    A flood is a streak of small reads, each soon after the one before and with nothing
    sent between them.  So neither the first bytes after quiet are delayed, nor an echo.
    One per connection.
    """

    PAUSE = 0.001
    GAP = 0.002
    STREAK = 8
    SMALL = 8 * 1024

    def __init__(self) -> None:
        self._streak = 0
        self._last = -math.inf
        self._sent = 0

    def pause(self, size: int, sent: int, now: float) -> float:
        """How long to wait after a read of ``size`` bytes; ``sent`` counts frames sent so far."""
        calm = size > self.SMALL or sent != self._sent or now > self._last + self.GAP
        self._streak = 0 if calm else self._streak + 1
        self._sent, self._last = sent, now
        if self._streak < self.STREAK:
            return 0.0
        self._last += self.PAUSE
        return self.PAUSE
