"""How late the loop is: what every console and every key waits for when it is busy."""

import trio

from bridge.service.metrics import Histogram

INTERVAL = 0.5


class LoopLag:
    """A task that asks to be woken, again and again, and notes how late it was."""

    def __init__(self) -> None:
        self.histogram = Histogram()

    async def run(self) -> None:
        while True:
            due = trio.current_time() + INTERVAL
            await trio.sleep_until(due)
            self.histogram.observe(trio.current_time() - due)
