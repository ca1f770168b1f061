"""What can be told of a running service: plain values, as JSON holds them.

``contrib/control.md`` documents the shape for programs in other languages.
"""

import os
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from bridge import __version__
from bridge.console.attach import Attachment
from bridge.console.manners import Kind
from bridge.service.bridged import BridgedConsole
from bridge.service.metrics import ConsoleFigures, LogFigures, ServiceFigures, exposition
from bridge.service.service import Service


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
    paced = console.pacer.statistics()
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
        "typed": dict(zip(("kind", "peer", "time"), console.counts.typed, strict=False)) or None,
        "input": {**asdict(paced), "mode": paced.mode.value, "waiting": console.pending},
        "bytes": {
            "from_guest": console.scrollback.end,
            "to_guest": console.counts.sent,
            "skipped": console.counts.skipped,
            "discarded": console.counts.discarded,
            "refused": console.counts.refused,
        },
        "log": _log_status(bridged),
        "frames": console.counts.frames,
        "connections": console.counts.connections,
        "seconds": {state.name: round(s, 3) for state, s in console.seconds().items()},
    }


def _log_status(bridged: BridgedConsole) -> dict[str, Any] | None:
    log = bridged.log
    if log is None:
        return None
    return {"written": log.written, "missing": log.missing, "failures": log.failures}


def service_metrics(service: Service) -> str:
    """All of it as text for Prometheus."""
    figures = ServiceFigures(__version__, service.started, time.time(), service.lag.histogram)
    return exposition(figures, map(_figures, service.consoles.values()))


def _figures(bridged: BridgedConsole) -> ConsoleFigures:
    console, counts, log = bridged.console, bridged.console.counts, bridged.log
    kinds = Counter(a.manners.kind.value for a in console.readers if isinstance(a, Attachment))
    return ConsoleFigures(
        name=console.name,
        state=console.state.value,
        seconds={state.value: spent for state, spent in console.seconds().items()},
        attachments={kind.value: kinds[kind.value] for kind in Kind},
        from_guest=console.scrollback.end,
        to_guest=counts.sent,
        skipped=counts.skipped,
        discarded=counts.discarded,
        refused=counts.refused,
        connections=counts.connections,
        frames=counts.frames,
        log=LogFigures(log.written, log.missing, log.failures) if log is not None else None,
    )


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
