"""How long to wait before a server is tried again."""

import random

FIRST = 0.25
LONGEST = 15.0
# Where a look tells who listens, and nobody does, the clock is only for what no look can see:
# a port that a firewall's rule leads elsewhere.  An attempt costs a millisecond of processor
# time, and a thousand machines may be off.
LONGEST_WATCHED = 60.0


class Backoff:
    """Seconds before each further attempt: doubling, with jitter, up to a limit."""

    def __init__(self) -> None:
        self._delay = FIRST

    def reset(self) -> None:
        """Begin anew: the last attempt was a good one."""
        self._delay = FIRST

    def delay(self, *, watched: bool) -> float:
        """The next one; ``watched``: whoever begins to listen there is seen by other means."""
        delay = min(self._delay, LONGEST_WATCHED if watched else LONGEST)
        self._delay = 2 * delay
        return delay * random.uniform(0.75, 1.0)  # noqa: S311 (spreads load, hides nothing)
