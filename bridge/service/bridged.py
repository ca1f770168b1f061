"""One console with all its parts: bound, run, changed, handed over."""

import logging
from dataclasses import dataclass

import trio

from bridge.base.errors import StartError
from bridge.base.handover import Bag, Ending, Left, Record
from bridge.base.printable import printable
from bridge.console.attach import Attachment
from bridge.console.console import Console
from bridge.console.pacing import Pacer
from bridge.console.queue import InputQueue, Told
from bridge.console.states import State
from bridge.logs.consolelog import ConsoleLog
from bridge.service.machine import Machine
from bridge.service.parts import Common, Part, Workshop, warn
from bridge.service.rescuing import rescue_console
from bridge.settings.config import ConsoleSettings

log = logging.getLogger("ttybridge")

# A console that is freed is ours within a second.
RETURN_LIMIT = 3.0

# There is a machine behind the console.
_REACHED = frozenset({State.ONLINE, State.BUSY})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a console can be reached; None for what is off."""

    name: str
    state: str
    url: str
    pty: str | None
    link: str | None
    raw: str | None
    telnet: str | None
    unix: str | None


class BridgedConsole:
    """See the module.  Bound when made, which may raise StartError; ``run``, then ``close``.

    ``left`` is what another process has left of this console: its ``state`` and the bag.
    ``partly``: what can't be bound is missing, which ``unbound`` says, and no error.
    """

    def __init__(
        self,
        settings: ConsoleSettings,
        common: Common,
        left: Left | None = None,
        *,
        partly: bool = False,
    ) -> None:
        self.settings = settings
        self._common = common
        self.console = Console(
            settings.name,
            str(settings.url),
            scrollback=settings.scrollback,
            pacer=Pacer(*settings.clocking),
            on_state=self._on_state,
            on_break=self._send_break,
        )
        self.machine = Machine(self.console, common.surroundings, lambda: self.settings)
        self._workshop = Workshop(self.console, common, left)
        self._state_log = _StateLog()
        self._news = trio.Event()  # of the state
        self._refusal = ""  # of the last BREAK
        self._breaking: dict[Told, None] = {}  # who is to be told the outcome of the next
        self.ended = False
        """Nobody can attach any more."""
        self._parts: dict[str, Part] = {}
        self.log: ConsoleLog | None = None
        self._nursery: trio.Nursery | None = None
        if left is not None and left[0]["console"] is not None:
            self.console.restore(left[0]["console"], left[1])
        self.unbound = ""
        """What could not be bound, and why."""
        try:
            self._bind()
        except StartError as error:
            if not partly:
                self.close()
                raise
            self.unbound = str(error)
        except BaseException:
            self.close()
            raise

    def _on_state(self, console: Console) -> None:
        self._state_log(console)
        self._common.changed()
        if console.state not in _REACHED:
            self.machine.forget()
        elif self._nursery is not None and console.ending is Ending.LEAVE:
            self._nursery.start_soon(self.machine.learn)
        self._news.set()
        self._news = trio.Event()

    def _send_break(self, told: Told) -> None:
        assert self._nursery is not None
        if self.console.ending is Ending.HAND_OVER:
            return  # it may be asked for until the last log is written
        if self.ended:
            told("the console is ending")
            return
        # Those that are asked for while one is under way are one: a client that says BREAK
        # without end, to a guest that nobody reaches, must not start something with each.
        under_way = bool(self._breaking)
        self._breaking[told] = None
        if self.console.line is not None and self.console.line.send_break():
            self._tell_break("")
        elif not under_way:
            self._nursery.start_soon(self.machine.attempt_break, self._tell_break)

    def _tell_break(self, refusal: str) -> None:
        if self.console.ending is Ending.HAND_OVER:
            return  # the next process does it
        if not refusal:
            log.info("%s: BREAK sent", self.settings.name)
        elif refusal != self._refusal:  # once, for one may ask without end
            warn(self.settings.name, f"no BREAK: {refusal}")
        self._refusal = refusal
        waiting, self._breaking = self._breaking, {}
        for told in waiting:
            told(refusal)

    async def send_break(self) -> None:
        """Have the guest see a BREAK, behind what was typed before; raises StartError."""
        outcome: list[str] = []
        answered = trio.Event()

        def told(refusal: str) -> None:
            outcome.append(refusal)
            answered.set()

        self.console.interrupt(InputQueue(told))
        await answered.wait()
        if outcome[0]:
            raise StartError(f"{self.settings.name}: no BREAK: {outcome[0]}")

    async def rescue(self) -> None:
        """Free the console if a client that has left badly keeps it; raises BridgeError."""
        if (state := self.console.state) is not State.BUSY:
            raise StartError(f"it is {state.name}, not locked")
        await rescue_console(self.machine, self.settings)
        log.info("%s: rescued", self.settings.name)
        with trio.move_on_after(RETURN_LIMIT):
            while self.console.state is not State.ONLINE:
                await self._news.wait()
            return
        raise StartError("freed, but not ONLINE yet")

    def close(self) -> None:
        for part in self._parts.values():
            part.close()
        self._parts.clear()

    def state(self, bag: Bag) -> Record:
        """What the next process needs to go on; after the tasks have ended by HAND_OVER.

        Before that a sketch, where the output begins anew.
        """
        return {
            "console": self.console.state_record(bag) if bag.whole else None,
            "parts": {
                "log": self.log.state(bag) if self.log is not None and bag.whole else None,
                **{name: part.way.state(bag) for name, part in self._parts.items()},
            },
        }

    async def run(self) -> None:
        """Serve until cancelled; QEMU is left properly, unless all is handed over."""
        self._start_log(self._workshop.left_of("log"))
        self._workshop.left = None  # used up: what a reload makes anew is new
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.console.state in _REACHED:  # by the process before this one
                    nursery.start_soon(self.machine.learn)
                nursery.start_soon(self._run_hub)
                for part in self._parts.values():
                    nursery.start_soon(part.run)
        finally:
            if self.log is not None:  # after the upstream, for its last words
                self._common.logs.remove(self.log)

    async def _run_hub(self) -> None:
        try:
            await self.console.run()
        finally:
            if self.console.ending is Ending.LEAVE:
                self.ended = True
                # Some came by an endpoint of the whole service, which lives on.
                for reader in self.console.readers:
                    if isinstance(reader, Attachment):
                        reader.end()

    async def let_go(self, settings: ConsoleSettings) -> None:
        """First half of a change: end the parts that ``settings`` want otherwise or not at all."""
        wanted = {plan.name: plan for plan in self._workshop.plans(settings)}
        if _log_settings(settings) != _log_settings(self.settings):
            self._end_log()
        for name, part in tuple(self._parts.items()):
            plan = wanted.get(name)
            if plan is None or plan.spec != part.spec:
                del self._parts[name]
                await part.retire()
            elif part.endpoint is not None and plan.manners is not None:
                part.endpoint.manners = plan.manners

    def take_up(self, settings: ConsoleSettings) -> None:
        """Second half: bind and run what ``settings`` want and is not there; raises StartError.

        After an error what could not be bound is missing.  The scrollback keeps its size.
        """
        assert self._nursery is not None
        self.settings = settings
        self.console.url = str(settings.url)
        self._start_log()
        kept = set(self._parts)
        if "upstream" not in kept:
            self.console.enter(State.CONNECTING)
        try:
            self._bind()
        finally:
            for name in self._parts.keys() - kept:
                self._nursery.start_soon(self._parts[name].run)

    def _start_log(self, left: Left | None = None) -> None:
        s = self.settings
        if s.log and self.log is None:
            self.log = self._common.logs.add(
                self.console, size=s.log_size, keep=s.log_keep, left=left
            )

    def _end_log(self) -> None:
        if self.log is not None:
            self._common.logs.remove(self.log)
            self.log = None

    @property
    def incomplete(self) -> bool:
        """Something that the settings want could not be bound."""
        return any(plan.name not in self._parts for plan in self._workshop.plans(self.settings))

    def _bind(self) -> None:
        """Make the parts that the settings want and that are not there.

        One that can't be bound doesn't keep the others from it; StartError names all such.
        """
        errors = []
        for plan in self._workshop.plans(self.settings):
            if plan.name not in self._parts:
                try:
                    self._parts[plan.name] = plan.make()
                except StartError as error:
                    errors.append(str(error))
        if errors:
            raise StartError("; ".join(errors))

    def address(self, name: str) -> str | None:
        """Where the endpoint called ``name`` is; None if there is none."""
        part = self._parts.get(name)
        return part.endpoint.address if part is not None and part.endpoint is not None else None

    @property
    def place(self) -> Place:
        pty = self.address("pty")
        return Place(
            name=self.settings.name,
            state=self.console.state.name,
            url=str(self.settings.url),
            pty=pty,
            link=str(self._common.runtime.path / self.settings.name) if pty else None,
            raw=self.address("raw"),
            telnet=self.address("telnet"),
            unix=self.address("unix"),
        )


def _log_settings(settings: ConsoleSettings) -> tuple[bool, int, int]:
    return settings.log, settings.log_size, settings.log_keep


class _StateLog:
    """One line per change of state; not for a new reason to wait, which may come per attempt."""

    def __init__(self) -> None:
        self._last: State | None = None

    def __call__(self, console: Console) -> None:
        if console.state is self._last and console.state is State.WAITING:
            return
        self._last = console.state
        reason = f": {printable(console.reason, 400)}" if console.reason else ""
        log.info("%s: %s%s", console.name, console.state.name, reason)
