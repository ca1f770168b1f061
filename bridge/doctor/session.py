"""An examination by way of a socket that carries the console's bytes; blocking."""

import socket
import time
from collections.abc import Callable

from bridge.base.errors import BridgeError
from bridge.doctor.examination import ENTER, Examination, Step

_CHUNK = 1 << 16


class LostError(BridgeError):
    """The console has gone while it was examined."""


def examine(
    stream: socket.socket, *, mute: str = "", online: Callable[[], bool] = lambda: True
) -> Examination:
    """Listen, press Enter where that can do no harm, listen; raises LostError.

    Ends early where it is not ``online`` any more.
    """
    examination = Examination(time.monotonic(), mute=mute)
    while (step := examination.step(time.monotonic())) is not Step.DONE and online():
        stream.settimeout(max(examination.deadline - time.monotonic(), 0.001))
        try:
            if step is Step.PRESS:
                stream.sendall(ENTER)
                examination.pressed(time.monotonic())
                continue
            data = stream.recv(_CHUNK)
        except TimeoutError:
            continue
        except ConnectionError:
            data = b""
        if not data:
            raise LostError("the console has been removed, or the service has ended")
        examination.receive(data, time.monotonic())
    return examination
