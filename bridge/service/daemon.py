"""The whole process: the service with what asks it and what watches it, from start to end.

The end is either that everything is left and closed, or that a new process goes on.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from bridge.base.errors import StartError
from bridge.base.handover import Bag, Ending, Record
from bridge.console.states import State
from bridge.kernel import succession
from bridge.service import saying
from bridge.service.announcement import Announcement
from bridge.service.bridged import Place
from bridge.service.control import Control
from bridge.service.demo import ConsoleServer
from bridge.service.heritage import Heritage
from bridge.service.opening import open_service
from bridge.service.service import Service
from bridge.settings.config import Configuration, ConsoleSettings
from bridge.systemd import notify as systemd
from bridge.systemd.keeping import Heir
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
    heritage = await Heritage.claim()
    supervision = Supervision(systemd.notifier())
    with ExitStack() as stack:
        try:
            service, control = _open(stack, plan, directory, heritage, supervision.changed)
        except Exception as error:
            if not heritage:
                await heritage.end()
                raise
            await heritage.renounce(error)  # whatever it is: QEMU must be left
        heritage.accept()
        daemon = _Daemon(plan, heritage, service, control, supervision)
        await daemon.serve(announce)
        if service.ending is Ending.HAND_OVER:
            await daemon.hand_over()
    if service.ending is Ending.LEAVE:
        await heritage.end()


def _open(
    stack: ExitStack,
    plan: Plan,
    directory: Path,
    heritage: Heritage,
    changed: Callable[[], None],
) -> tuple[Service, Control]:
    service = stack.enter_context(
        open_service(
            plan.consoles,
            directory,
            filed=plan.filed,
            reread=plan.reread,
            changed=changed,
            left=heritage.part("service"),
            lock=heritage.descriptor("lock"),
            keeper=heritage.keeper,
        )
    )
    control = Control(service, heritage.part("control"), heritage.keeper)
    return service, stack.enter_context(closing(control))


@dataclass(frozen=True, slots=True)
class _Daemon:
    """Everything, bound."""

    plan: Plan
    heritage: Heritage
    service: Service
    control: Control
    supervision: Supervision
    announcement: Announcement = field(default_factory=Announcement)

    async def serve(self, announce: Callable[[list[Place]], str]) -> None:
        service, store = self.service, self.heritage.store
        self.announcement.rest = self.heritage.text("announcement")

        def ready() -> None:
            if not self.heritage:
                self.announcement.say(announce(service.places))
            nursery.start_soon(self.announcement.run)
            nursery.start_soon(saying.run)
            self.supervision.ready()
            if self.heritage.stored and self.plan.reread is not None:
                nursery.start_soon(partial(service.reload_and_say, nothing=False))

        async with trio.open_nursery() as nursery:
            if self.plan.server is not None:
                service.tied = "the built-in console lives in this process"
                nursery.start_soon(self.plan.server.run)
            if store is not None:
                service.restarting = store.restarting
                store.sketch(self.describe)  # in place of a whole one, which is used up
                nursery.start_soon(store.run, self.describe)
            nursery.start_soon(self.control.run)
            nursery.start_soon(service.lag.run)
            nursery.start_soon(self.supervision.run, lambda: _count_states(service))
            await service.run(ready)
            nursery.cancel_scope.cancel()

    async def hand_over(self) -> None:
        """Returns if the next process is another one."""
        store = self.heritage.store
        if store is not None and self.service.heir is Heir.SYSTEMD:
            await store.hand_over(self.describe)
            return
        bag = Bag()
        if store is not None:
            await store.settle()
            bag.kept = store.names
        # These two are of no use to a process that is another one.
        own = {
            "lock": bag.put(self.service.runtime.lock),
            "announcement": bag.put_bytes(self.announcement.rest),
        }
        try:
            succession.become(self.describe(bag) | own, bag)
        except StartError:
            self.service.ending = Ending.LEAVE  # nobody goes on: everything is closed
            raise

    def describe(self, bag: Bag) -> Record:
        return {"service": self.service.state(bag), "control": self.control.state(bag)}


def _count_states(service: Service) -> Counter[State]:
    return Counter(bridged.console.state for bridged in service.consoles.values())
