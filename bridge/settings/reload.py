"""What a new configuration asks of the consoles that are there: the least change that does it."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from bridge.settings.config import PORTS, ConsoleSettings
from bridge.settings.values import ANY_PORT


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did, by the consoles' names; ``errors`` are lines for the user."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    service: list[str] = field(default_factory=list)
    """Keys of the service that have changed."""
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = {
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
            "changed of [service]": self.service,
            "failed": self.errors,
        }
        said = (f"{len(names)} {what}" for what, names in counts.items() if names)
        return ", ".join(said) or "nothing has changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """By name; ``changed`` ones become what ``wanted`` says, ``replaced`` ones begin anew."""

    added: frozenset[str]
    removed: frozenset[str]
    changed: frozenset[str]
    replaced: frozenset[str]
    wanted: Mapping[str, ConsoleSettings]
    """With the ports that those have now who stay."""


def difference(
    filed: Mapping[str, ConsoleSettings],
    now: Mapping[str, ConsoleSettings],
    wanted: Mapping[str, ConsoleSettings],
    incomplete: AbstractSet[str] = frozenset(),
) -> Difference:
    """Compare the file as it was with the file as it is; ``now`` is what has become of the former.

    To those that are ``incomplete`` what the file says has not happened yet.
    """
    staying = filed.keys() & wanted.keys()
    changed = {name for name in staying if filed[name] != wanted[name] or name in incomplete}
    replaced = {n for n in changed if filed[n].scrollback != wanted[n].scrollback}
    effective = {
        name: _keep_ports(settings, filed[name], now[name]) if name in filed else settings
        for name, settings in wanted.items()
    }
    return Difference(
        frozenset(wanted.keys() - filed.keys()),
        frozenset(filed.keys() - wanted.keys()),
        frozenset(changed - replaced),
        frozenset(replaced),
        effective,
    )


def _keep_ports(
    wanted: ConsoleSettings, filed: ConsoleSettings, now: ConsoleSettings
) -> ConsoleSettings:
    """``wanted``, with the ports of ``now`` that the file still leaves open."""
    ports = {
        key: getattr(now, key)
        for key in PORTS
        if getattr(filed, key) == getattr(wanted, key) == ANY_PORT
    }
    return replace(wanted, **ports)
