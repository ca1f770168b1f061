"""What can be told of a running service: plain values, as JSON holds them.

``contrib/control.md`` documents the shape for programs in other languages.
"""

import os
import time
from typing import Any

from bridge import __version__
from bridge.attach import Attachment
from bridge.bridged import BridgedConsole
from bridge.service import Service


def service_status(service: Service) -> dict[str, Any]:
    return {
        "version": __version__,
        "pid": os.getpid(),
        "since": service.started,
        "now": time.time(),
        "websocket": service.websockets.url,
    }


def console_status(bridged: BridgedConsole) -> dict[str, Any]:
    """Everything about one console; positions and sizes in bytes, times in epoch seconds."""
    console = bridged.console
    place = bridged.place
    pacer = console.pacer
    return {
        "name": place.name,
        "state": place.state,
        "reason": console.reason,
        "since": console.since,
        "url": place.url,
        "pty": place.pty,
        "link": place.link,
        "raw": place.raw,
        "telnet": place.telnet,
        "unix": place.unix,
        "pty_readonly": bridged.address("pty_readonly"),
        "raw_readonly": bridged.address("raw_readonly"),
        "attachments": [
            _attachment(a, console.scrollback.end)
            for a in console.readers
            if isinstance(a, Attachment)
        ],
        "input": {"mode": pacer.mode.value, "window": pacer.window, "waiting": console.pending},
        "bytes": {
            "from_guest": console.scrollback.end,
            "to_guest": console.counts.sent,
            "skipped": console.counts.skipped,
            "discarded": console.counts.discarded,
            "refused": console.counts.refused,
        },
        "connections": console.counts.connections,
        "seconds": {state.name: round(s, 3) for state, s in console.seconds().items()},
    }


def _attachment(attachment: Attachment, end: int) -> dict[str, Any]:
    return {
        "id": attachment.number,
        "kind": attachment.manners.kind.value,
        "peer": attachment.peer,
        "writable": attachment.manners.writable,
        "since": attachment.since,
        "typed": attachment.typed_at,
        "behind": end - attachment.position,
    }
