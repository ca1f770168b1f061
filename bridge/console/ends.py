"""What a console has at its two ends: a way to the guest, and those who follow the output."""

from typing import Protocol


class Line(Protocol):
    """The way to the guest while ONLINE."""

    @property
    def clear(self) -> bool:
        """Everything sent before has left."""

    def send(self, payload: bytes) -> None:
        """Send at once, or as soon as possible; never blocks, never raises."""

    def send_break(self) -> bool:
        """The same for a BREAK; False where there is no way to say it."""


class Reader(Protocol):
    """One who follows the output, as the console sees it: an attachment, or the log."""

    position: int

    @property
    def reading(self) -> bool:
        """Somebody is there, who may read what lags behind."""

    def push(self) -> None:
        """Write what is new in the scrollback, as much as possible at once; never raises."""
