"""A console's output, read: what there is, how the guest came there.  Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bridge.base.escapes import shown
from bridge.doctor.signs import (
    PROMPTS,
    QUESTION,
    SCREEN,
    STAGES,
    TRACES,
    UNFINISHED,
    Finding,
    Sign,
)

# What puts the cursor elsewhere: what follows is another line.
_MOVES = re.compile(rb"\x1b(?:\[[0-9;]*[HfJ]|c)")

# IAC WILL, WONT, DO, DONT (RFC 854), as text that a sign can be made of.
_NEGOTIATION = re.compile(rb"(?:\xff[\xfb-\xfe][\x00-\x7f])+")

_SECOND_SCREEN = re.compile(rb"\x1b\[\?(?:1049|1047|47)([hl])")


@dataclass(frozen=True, slots=True)
class Reading:
    """What the output says."""

    finding: Finding
    trail: tuple[Finding, ...]
    """The stages that were gone through, the present one included."""
    systems: frozenset[str]
    """Operating systems that have shown themselves."""
    enter: str
    """What Enter would do, if that could be unwelcome."""
    prompt: bool
    """Somebody waits for what is typed."""
    last: str
    """The last line in which something is."""


def read(output: bytes) -> Reading:
    """What ``output``, up to its end, tells."""
    text = _seen(output)
    trail = _trail(text)
    prompt = _prompt(text) or (SCREEN if _on_second_screen(output) else None)
    open_end = None if prompt else _open_end(text)
    if open_end is QUESTION:
        prompt = QUESTION
    there = prompt or (trail[-1] if trail else None)
    found = [*trail, *([prompt] if prompt else [])]
    lines = [line.strip() for line in text.splitlines()]
    unknown = Finding.UNKNOWN if text.strip() else Finding.NOTHING
    return Reading(
        finding=there.finding if there else unknown,
        trail=tuple(each.finding for each in trail),
        systems=frozenset(each.system for each in found if each.system),
        enter=next((each.enter for each in (there, open_end) if each and each.enter), ""),
        prompt=prompt is not None,
        last=next((line for line in reversed(lines) if line), ""),
    )


def _seen(output: bytes) -> str:
    text = shown(_MOVES.sub(b"\n", _NEGOTIATION.sub(b"\n<telnet>\n", output)))
    return text.rstrip(" \t")


def _on_second_screen(output: bytes) -> bool:
    switches = _SECOND_SCREEN.findall(output)
    return bool(switches) and switches[-1] == b"h"


def _prompt(text: str) -> Sign | None:
    end = text[text.rfind("\n", 0, max(0, text.rfind("\n"))) + 1 :]  # two lines
    return next((sign for sign in PROMPTS if sign.pattern.search(end)), None)


def _open_end(text: str) -> Sign | None:
    """What a last line may be that is not finished, and that nothing is known of."""
    line = text.rpartition("\n")[2]
    if any(sign.pattern.search(line) for sign in TRACES):
        return None
    return next((sign for sign in (QUESTION, UNFINISHED) if sign.pattern.search(line)), None)


def _trail(text: str) -> list[Sign]:
    """The traces in the order of a boot, of the last boot."""
    trail: list[Sign] = []
    for sign in _traces(text):
        rank = STAGES.index(sign.finding)
        if sign.begins:
            trail = [s for s in trail if STAGES.index(s.finding) < rank]
        elif trail and STAGES.index(trail[-1].finding) > rank:
            continue  # as a kernel's message after the login prompt
        elif trail and trail[-1].finding is sign.finding:
            trail[-1] = max(trail[-1], sign, key=lambda s: bool(s.enter))
            continue
        if trail and trail[-1].finding is Finding.STARTED:
            trail.pop()  # what was started has spoken
        trail.append(sign)
    return trail


def _traces(text: str) -> Iterator[Sign]:
    found = [(match.start(), sign) for sign in TRACES for match in sign.pattern.finditer(text)]
    return (sign for _, sign in sorted(found, key=lambda each: each[0]))
