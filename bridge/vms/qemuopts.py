"""The syntax of QEMU's options: ``key=value,flag,path=a,,b``, JSON, and ``-readconfig`` files.

Follows util/qemu-option.c and util/qemu-config.c.  Meant for command lines that QEMU has
accepted: what it would refuse need not be found out here, but must not raise either.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Values = dict[str, str]
"""What an option says; of a repeated key the last value, as QEMU has it."""

# qapi_bool_parse(); upper case and digits are refused by QEMU.
_BOOLEANS = dict.fromkeys(("on", "yes", "true", "y"), True) | dict.fromkeys(
    ("off", "no", "false", "n"), False
)

_KEY_END = re.compile("[=,]")

# The conversions of qemu_config_parse(): [group "id"], [group], key = "value".
_GROUP = re.compile(r'\[(?P<group>[^\s"\]]+)(?: +"(?P<id>[^"]*)")?\s*\]')
_VALUE = re.compile(r'\s*(?P<key>\S+) *= *"(?P<value>[^"]*)"')


@dataclass(slots=True)
class Section:
    """One option: ``-chardev socket,id=c`` or ``[chardev "c"]``, of group ``chardev``."""

    group: str
    id: str | None
    values: Values = field(default_factory=dict)

    def flag(self, key: str, default: bool = False) -> bool:
        return _BOOLEANS.get(self.values.get(key, ""), default)


def parse_values(text: str, implied: str | None = None) -> Values:
    """Read ``a=1,b,noc``; a first word without ``=`` is the value of ``implied``.

    Of ``=`` and comma whichever comes first decides, so ``a,,b=c`` is a value if it is
    the first word; in values a doubled comma stands for one.
    """
    values: Values = {}
    at = 0
    while at < len(text):
        end = _KEY_END.search(text, at)
        stop = end.start() if end else len(text)
        if end and end[0] == "=":
            key = text[at:stop]
            values[key], at = _value(text, stop + 1)
        elif implied is not None:
            values[implied], at = _value(text, at)
        else:
            key = text[at:stop]
            at = stop + 1
            # nowait, nodelay: a flag that is off.
            off = key.startswith("no")
            values[key[2:] if off else key] = "off" if off else "on"
        implied = None
    return values


def parse_json(text: str) -> Values | None:
    """Read ``{"driver": "x"}``, which -device takes since QEMU 6.2; None if it is no JSON."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()
    }


def parse_set(text: str) -> tuple[str, str, str, str] | None:
    """Read the ``group.id.key=value`` of -set; commas mean nothing there."""
    match = re.fullmatch(r"([^.]+)\.([^.]+)\.([^=]+)=(.*)", text, re.DOTALL)
    return (match[1], match[2], match[3], match[4]) if match else None


def read_config(text: str) -> Iterator[Section]:
    """The sections of a -readconfig file."""
    section = None
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if group := _GROUP.match(line):
            if section is not None:
                yield section
            section = Section(group["group"], group["id"])
        elif (value := _VALUE.match(line)) and section is not None:
            section.values[value["key"]] = value["value"]
    if section is not None:
        yield section


def _value(text: str, at: int) -> tuple[str, int]:
    """The value at ``at`` up to a single comma, and where the next word begins."""
    value = ""
    while True:
        comma = text.find(",", at)
        if comma < 0:
            return value + text[at:], len(text)
        value += text[at:comma]
        if not text.startswith(",,", comma):
            return value, comma + 1
        value += ","
        at = comma + 2
