"""What one value of a configuration file may be: each reader raises ValueError for another."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.base.printable import printable
from bridge.settings.access import parse_path

ANY_PORT = 0

Version = tuple[int, int]

_SIZE = re.compile(r"([0-9]{1,12}) ?(|KiB|MiB|GiB)")
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(\.[0-9]+)*")
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Key:
    """One key: ``parse`` raises ValueError for what is not ``allowed``."""

    parse: Callable[[Any], object]
    allowed: str
    in_defaults: bool = True
    secret: bool = False
    """A string in its place may be one, written there by mistake: it is not repeated."""


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def port(value: object) -> int | None:
    """A port, ANY_PORT for "auto", None for false."""
    if value is False:
        return None
    return ANY_PORT if value == "auto" else number(1, 65535)(value)


def number(least: int, most: int) -> Callable[[object], int]:
    """A reader of whole numbers."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    return read


def size(least: int, most: int) -> Callable[[object], int]:
    """A reader of numbers of bytes: 4096, "4KiB"."""

    def read(value: object) -> int:
        match = _SIZE.fullmatch(str(value)) if isinstance(value, str | int) else None
        if match is None:
            raise ValueError
        return number(least, most)(int(match[1]) * _UNITS[match[2]])

    return read


def version(value: object) -> Version:
    """Two numbers of what ``qemu-system-x86_64 --version`` says."""
    match = _VERSION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError
    return int(match[1]), int(match[2])


def file(value: object) -> Path:
    match value:
        case {"file": name, **others} if not others:
            return parse_path(name)
    raise ValueError


def shown(value: object) -> str:
    """A value of TOML, as the user may have written it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{printable(value)}"'
        case dict():
            return "a table"
        case list():
            return "an array"
        case _:
            return printable(str(value))
