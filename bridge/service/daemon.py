"""The whole process: the service with what asks it and what watches it, from start to end.

The end is either that everything is left and closed, or that a new process goes on.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bridge.base.handover import Bag, Ending, Left
from bridge.console.states import State
from bridge.kernel import succession
from bridge.service.announcement import Announcement
from bridge.service.bridged import Place
from bridge.service.control import Control
from bridge.service.demo import ConsoleServer
from bridge.service.opening import open_service
from bridge.service.service import Service
from bridge.settings.config import Configuration, ConsoleSettings
from bridge.systemd import notify as systemd
from bridge.systemd.supervision import Supervision


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be served."""

    consoles: list[ConsoleSettings]
    filed: Configuration = field(default_factory=Configuration)
    """What the configuration file says."""
    reread: Callable[[], Configuration] | None = None
    """Reads that file again."""
    server: ConsoleServer | None = None
    """The built-in console."""


def run(plan: Plan, directory: Path, announce: Callable[[list[Place]], str]) -> None:
    """Serve until stopped; raises StartError.

    What ``announce`` makes of the consoles' places is printed once everything is bound; not
    by a process that goes on where another has left off.
    """
    trio.run(_run, plan, directory, announce)


async def _run(plan: Plan, directory: Path, announce: Callable[[list[Place]], str]) -> None:
    left = succession.inherit()
    supervision = Supervision(systemd.notifier())
    announcement = Announcement()
    if left is not None:
        announcement.rest = left[1].take_bytes(left[0].get("announcement", [0, 0]))
    with (
        open_service(
            plan.consoles,
            directory,
            filed=plan.filed,
            reread=plan.reread,
            changed=supervision.changed,
            left=_part(left, "service"),
        ) as service,
        closing(Control(service, _part(left, "control"))) as control,
    ):
        if left is not None:
            succession.close(left[1])  # what nobody took
        if plan.server is not None:
            service.tied = "the built-in console lives in this process"

        def ready() -> None:
            if left is None:
                announcement.say(announce(service.places))
            nursery.start_soon(announcement.run)
            supervision.ready()

        async with trio.open_nursery() as nursery:
            if plan.server is not None:
                nursery.start_soon(plan.server.run)
            nursery.start_soon(control.run)
            nursery.start_soon(service.lag.run)
            nursery.start_soon(supervision.run, lambda: _count_states(service))
            await service.run(ready)
            nursery.cancel_scope.cancel()
        if service.ending is Ending.HAND_OVER:
            bag = Bag()
            record = {
                "service": service.state(bag),
                "control": control.state(bag),
                "announcement": bag.put_bytes(announcement.rest),
            }
            succession.become(record, bag)


def _part(left: Left | None, name: str) -> Left | None:
    return (left[0][name], left[1]) if left is not None else None


def _count_states(service: Service) -> Counter[State]:
    return Counter(bridged.console.state for bridged in service.consoles.values())
