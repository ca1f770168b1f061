"""TOML as the standard has it: errors in one line, numbers of 64 bits."""

import tomllib
from typing import Any

from bridge.base.errors import ConfigError
from bridge.base.printable import printable


def read(text: str, source: str) -> dict[str, Any]:
    """The document that ``text`` is; raises ConfigError, which names ``source``."""
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{source}: not TOML: {printable(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not TOML: tables or arrays are nested too deep") from None
    # tomllib takes any; of such as 0xfff... str() raises ValueError, in some message.
    if _is_long(document):
        raise ConfigError(f"{source}: not TOML: a number beyond 64 bits")
    return document


def _is_long(document: dict[str, Any]) -> bool:
    """Is there such a number within?  Not by recursion: dotted keys nest without any."""
    left: list[object] = [document]
    while left:
        match left.pop():
            case dict() as table:
                left += table.values()
            case list() as array:
                left += array
            case int() as number if not -(1 << 63) <= number < 1 << 63:
                return True
    return False
