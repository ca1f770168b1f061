"""The service's own messages: one line each, on stderr.

A person reads ``vm1: WAITING: connection refused``.  What programs look for besides goes
behind it as ``key=value``, in logfmt's manner, so that a line reads as a sentence and greps
as data: ``event`` makes such lines.  Where stderr is the journal each line begins with its
priority (sd-daemon(3)), which the journal takes off again.
"""

import logging
import os
import re
import sys
from typing import TextIO

from bridge.base.printable import printable

log = logging.getLogger("ttybridge")

LEVELS = ("debug", "info", "warning", "error")

# syslog(3)'s.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}
_CRITICAL = 2

_FIELDS = "ttybridge_fields"
_PLAIN = re.compile(r"[^\s\"=\\]+")

# A user's name and password in a URL.  No URL of ours has any; a foreign message might.
_USERINFO = re.compile(r"(?<=://)[^/\s@]+@")


def event(level: int, message: str, **fields: object) -> None:
    """Say ``message`` and then each of ``fields`` that is not None."""
    log.log(level, "%s", message, extra={_FIELDS: fields})


def set_up(level: str = "info", stream: TextIO | None = None) -> None:
    """Send what is logged, from ``level`` on, to ``stream``; stderr by default."""
    stream = stream or sys.stderr
    handler = _handler(stream)
    handler.setFormatter(_Formatter(priorities=is_journal(stream)))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


def _handler(stream: TextIO) -> logging.Handler:
    from bridge.service.saying import Saying  # which imports trio

    try:
        return Saying(stream.fileno(), stream.encoding)
    except (OSError, ValueError):  # no file at all
        return logging.StreamHandler(stream)


def is_journal(stream: TextIO) -> bool:
    """Is the journal at the other end?  It says which file that is (systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class _Formatter(logging.Formatter):
    def __init__(self, *, priorities: bool) -> None:
        super().__init__("%(message)s")
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)  # with its traceback, if it has one
        fields: dict[str, object] = getattr(record, _FIELDS, {})
        pairs = [f" {key}={_value(value)}" for key, value in fields.items() if value is not None]
        text = _USERINFO.sub("***@", text + "".join(pairs))
        if not self._priorities:
            return text
        priority = _PRIORITIES.get(record.levelno, _CRITICAL)
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def _value(value: object) -> str:
    """In quotes where it is not plain."""
    if isinstance(value, bool):
        return str(value).lower()
    text = printable(str(value), 400)
    if _PLAIN.fullmatch(text):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'
