"""How a console treats those who come in by one endpoint or another.

At some endpoints a person's terminal is at the other end: it is shown what it missed and
told what goes on.  At the others a program is, which wants the guest's bytes and nothing
else.
"""

import enum
from dataclasses import dataclass

REPLAY = 16 * 1024

# A replay is parsed when somebody attaches; what takes longer would be felt by all.
MAX_REPLAY = 256 * 1024


class Kind(enum.Enum):
    """Of an endpoint."""

    PTY = "pty"
    RAW = "raw"
    TELNET = "telnet"
    UNIX = "unix"
    WEBSOCKET = "websocket"
    ATTACH = "attach"  # the control socket

    @property
    def terminal(self) -> bool:
        """Is a person's terminal expected at the other end?"""
        return self in {Kind.PTY, Kind.TELNET, Kind.ATTACH}


@dataclass(frozen=True, slots=True)
class Manners:
    """What those who attach get, and may."""

    kind: Kind
    replay: int = 0
    """Bytes of past output to show, at most."""
    notices: bool = False
    """Say in the stream what happens to the console."""
    writable: bool = True
    """What they type goes to the guest."""

    @classmethod
    def of(
        cls,
        kind: Kind,
        *,
        replay: int | None = None,
        notices: bool | None = None,
        writable: bool = True,
    ) -> "Manners":
        """The manners of ``kind``, but for what is given."""
        if replay is None:
            replay = REPLAY if kind.terminal else 0
        return cls(
            kind, min(replay, MAX_REPLAY), kind.terminal if notices is None else notices, writable
        )
