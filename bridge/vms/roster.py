"""Which consoles of the VMs that run are bridged unasked, and under which names.

Decides, without I/O and without a clock: from what runs and what is bridged to what has
changed.  Explicit settings win, nobody's console is taken, and a console outlives its
VM for a while.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from bridge.settings.config import ConsoleSettings
from bridge.vms.discovery import Found, Slot, comparable, console_name

# How long a console outlives its VM: one that is started again finds the terminals still
# attached, and the same PTY.
GRACE = 5.0


class Change(Enum):
    APPEARED = "appeared"
    GONE = "gone"
    REPLACED = "replaced"
    """A VM of the same name has come to the same address: the console stays."""


@dataclass(frozen=True, slots=True)
class News:
    """What has happened to a console that is, or is to be, bridged unasked."""

    change: Change
    name: str
    found: Found | None
    """None for one that has gone while one process took over from another."""


@dataclass(slots=True)
class _Ours:
    found: Found
    gone_at: float | None = None


# A pid, when that process started, and the chardev's id.
Key = tuple[int, int, str]


class Roster:
    """See the module; ``update`` after each look.

    ``former`` are the names of those that the process before this one had found: they
    are recognised by their addresses.  ``dismissed`` are those that it left alone.
    """

    def __init__(self, former: Collection[str] = (), dismissed: Iterable[Key] = ()) -> None:
        self._former = set(former)
        self._former_until: float | None = None
        self._ours: dict[str, _Ours] = {}
        self._dismissed = set(dismissed)

    @property
    def names(self) -> set[str]:
        return self._ours.keys() | self._former

    @property
    def dismissed(self) -> Collection[Key]:
        return self._dismissed

    def is_settled(self, found: Found, explicit: Collection[object]) -> bool:
        """Is there nothing to decide about a console while its VM runs?"""
        key = _key(found)
        return key in self._keys or key in self._dismissed or _is_covered(found, explicit)

    def explicit(self, bridged: Iterable[ConsoleSettings]) -> set[object]:
        """The addresses of those that the user has set up himself."""
        names = self.names
        others = (s for s in bridged if s.name not in names)
        return {address for s in others for address in comparable(s.url.address)}

    def relinquish(self, name: str) -> None:
        """A console of this name is not ours any more; its VM's may come again by another."""
        self._former.discard(name)
        self._ours.pop(name, None)

    def dismiss(self, name: str) -> None:
        """Leave a console alone, as long as its VM runs."""
        self._dismissed.add(_key(self._ours.pop(name).found))

    def update(
        self, found: Iterable[Found], bridged: Collection[ConsoleSettings], now: float
    ) -> list[News]:
        """What has changed, given all consoles that run and all that are bridged.

        A name that is retired may come again in the same answer.
        """
        running = {_key(f): f for f in found if f.bridged and f.listener is not None}
        names = {settings.name for settings in bridged}
        # One that the user has removed, though its VM runs: he will have had a reason.
        for name in self._ours.keys() - names:
            self.dismiss(name)
        news = list(self._recognise(running, bridged, now))
        if self._former_until is not None and now >= self._former_until:  # all are seen by then
            self._dismissed &= running.keys()
        explicit = self.explicit(bridged)
        others = names - self._ours.keys()
        news += self._departures(running, explicit, now)
        return news + list(self._arrivals(running, explicit, others))

    def _recognise(
        self, running: dict[Key, Found], bridged: Iterable[ConsoleSettings], now: float
    ) -> Iterator[News]:
        if self._former_until is None:
            self._former_until = now + GRACE
        for settings in bridged:
            if settings.name in self._former:
                urls = {found.url: found for found in running.values()}
                if (found := urls.get(str(settings.url))) is not None:
                    self._ours[settings.name] = _Ours(found)
                elif now >= self._former_until:
                    yield News(Change.GONE, settings.name, None)
                else:
                    continue
                self._former.discard(settings.name)
        if now >= self._former_until:  # what is left, nobody has taken over
            self._former.clear()

    def _departures(
        self, running: dict[Key, Found], explicit: Collection[object], now: float
    ) -> Iterator[News]:
        for name, ours in list(self._ours.items()):
            if _is_covered(ours.found, explicit):
                yield self._retire(name)
            elif _key(ours.found) in running:
                ours.gone_at = None
            elif successor := self._successor(ours.found, running):
                if successor.vm == ours.found.vm:
                    self._ours[name] = _Ours(successor)
                    yield News(Change.REPLACED, name, successor)
                else:
                    yield self._retire(name)
            elif ours.gone_at is None:
                ours.gone_at = now
            elif now >= ours.gone_at + GRACE:
                yield self._retire(name)

    def _arrivals(
        self, running: dict[Key, Found], explicit: Collection[object], others: set[str]
    ) -> Iterator[News]:
        for found in running.values():
            if found.slot is not Slot.FREE or self.is_settled(found, explicit):
                continue
            # A VM that was started again with another port takes its name over.
            for name in [n for n, ours in self._ours.items() if _is_former(ours, found)]:
                yield self._retire(name)
            name = console_name(found, others | self._ours.keys())
            self._ours[name] = _Ours(found)
            yield News(Change.APPEARED, name, found)

    def _retire(self, name: str) -> News:
        return News(Change.GONE, name, self._ours.pop(name).found)

    def _successor(self, old: Found, running: dict[Key, Found]) -> Found | None:
        """A console of another VM at the same address, which is not ours yet."""
        ours = self._keys
        return next((f for k, f in running.items() if f.url == old.url and k not in ours), None)

    @property
    def _keys(self) -> set[Key]:
        return {_key(ours.found) for ours in self._ours.values()}


def _key(found: Found) -> Key:
    return found.process.pid, found.process.started, found.chardev.id


def _is_former(ours: _Ours, found: Found) -> bool:
    old = ours.found
    return ours.gone_at is not None and (old.vm, old.chardev.id) == (found.vm, found.chardev.id)


def _is_covered(found: Found, explicit: Collection[object]) -> bool:
    address = found.listener.address if found.listener else None
    return address is not None and any(key in explicit for key in comparable(address))
