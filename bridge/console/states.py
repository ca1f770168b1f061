"""The states of a console's upstream, and the sentence that tells a terminal of each."""

import enum

from bridge.base.printable import printable


class State(enum.Enum):
    """Of the upstream connection."""

    CONNECTING = "connecting"
    ONLINE = "online"
    BUSY = "busy"  # another client holds QEMU's only slot
    WAITING = "waiting"  # nobody there; will be tried again
    FAILED = "failed"  # somebody there, but not a console; not tried again by itself


_SENTENCES = {
    State.CONNECTING: "{name} is connecting to {url}",
    State.ONLINE: "{name} is online",
    State.BUSY: "{name} is busy: {reason}",
    State.WAITING: "{name} is waiting for {url}",
    State.FAILED: "{name} has failed: {reason}",
}


def sentence(name: str, url: str, state: State, reason: str) -> str:
    """What a person at a terminal is told; ``reason`` may come from a server, any bytes in it."""
    return _SENTENCES[state].format(name=name, url=url, reason=printable(reason, 400))
