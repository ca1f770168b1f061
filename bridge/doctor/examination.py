"""When a console is listened to, and when Enter is pressed.  Pure: the time is passed in.

    listen until it is silent -> (Enter, if that can do no harm) -> listen until it is silent

Enter is CR, once.  It is pressed only where what was printed last says that it does nothing
but show who is there, and where nobody else types.
"""

import enum

from bridge.doctor.reading import Reading, read

# So long nothing, and it is silent.
QUIET = 1.0

# So long may an answer take to begin: a login program may be started for it.
ANSWER = 3.0

# So long at most is listened to one who is never silent, each time.
PATIENCE = 10.0

ENTER = b"\r"

# What is kept of the output; more than the last boot says is not needed.
KEPT = 1 << 18


class Step(enum.Enum):
    """What is to be done now."""

    LISTEN = "listen"
    PRESS = "press"  # then ``pressed``
    DONE = "done"


class Examination:
    """See the module.  ``mute`` is why Enter must not be pressed in any case."""

    def __init__(self, now: float, *, mute: str = "") -> None:
        self.output = b""
        self.answer: bytes | None = None
        """What came after Enter; None where it was not pressed."""
        self.talking = False
        """It was never silent."""
        self.restraint = mute
        """Why Enter was not pressed."""
        self._began = self._last = now

    def receive(self, data: bytes, now: float) -> None:
        """The console has printed ``data``."""
        self.output = (self.output + data)[-KEPT:]
        if self.answer is not None:
            self.answer = (self.answer + data)[:KEPT]
        self._last = now

    def pressed(self, now: float) -> None:
        """Enter has been pressed."""
        self.answer = b""
        self._began = self._last = now

    @property
    def deadline(self) -> float:
        """When ``step`` must be asked again, if nothing comes."""
        quiet = ANSWER if self.answer == b"" else QUIET
        return min(self._last + quiet, self._began + PATIENCE)

    def step(self, now: float) -> Step:
        if now < self.deadline:
            return Step.LISTEN
        self.talking = now < self._last + QUIET
        if self.talking and self.answer is None:
            self.restraint = self.restraint or "it goes on printing"
        if self.answer is not None or self.restraint:
            return Step.DONE
        enter = self.reading().enter
        if enter:
            self.restraint = f"Enter could {enter}"
            return Step.DONE
        return Step.PRESS

    def reading(self) -> Reading:
        return read(self.output)
