"""Waiting for what has no event to wait for, in one place and with a limit."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT = 30.0


def eventually(look: Callable[[], T | None], *, limit: float = LIMIT, what: str = "") -> T:
    """Look until there is something true to see; fail after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what or look}"
        time.sleep(0.02)
    return seen
