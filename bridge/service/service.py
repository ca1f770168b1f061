"""The whole: every console, in one nursery.

Consoles may come, change and go while it runs.
"""

import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import trio

from bridge.base.errors import BridgeError, StartError, UsageError
from bridge.base.handover import Bag, Ending, Left, Record, RecordError
from bridge.base.printable import printable
from bridge.endpoints.websockets import WebSockets
from bridge.kernel import succession
from bridge.service import process
from bridge.service.bridged import BridgedConsole, Place
from bridge.service.looplag import LoopLag
from bridge.service.parts import Common
from bridge.service.running import Running
from bridge.settings.config import Configuration, ConsoleSettings, check_unique, console
from bridge.settings.reload import Reloaded, difference
from bridge.settings.url import UpstreamUrl
from bridge.systemd.keeping import Heir
from bridge.vms.discovery import Found
from bridge.vms.watch import Discovery

log = logging.getLogger("ttybridge")


class Service:
    """All consoles, bound; ``run`` serves until a stop signal or cancellation."""

    def __init__(self, common: Common, reread: Callable[[], Configuration] | None = None) -> None:
        self.runtime = common.runtime
        self.started = time.time()
        self.lag = LoopLag()
        self._common = common
        self._reread = reread
        self._running: dict[str, Running] = {}
        self._removed: dict[str, Record] = {}
        """Those of the command line that were removed by hand, as they were there."""
        self.websockets = WebSockets(common.runtime.path, self._find_served, common.keeper)
        self._nursery: trio.Nursery | None = None
        self._changing = trio.Lock()
        """Held while a change of the consoles is under way, which others must not meet halfway."""
        self._defaults: Mapping[str, Any] = {}
        self._discovers = False
        self._watching = trio.CancelScope()
        self._discovery = Discovery(self, self._make_found)
        self._serving = trio.CancelScope()
        self.ending = Ending.LEAVE
        self.heir = Heir.EXEC
        self.restarting: Callable[[], Awaitable[bool]] | None = None
        """Asks, at SIGTERM, whether another process will go on, if that can be."""
        self.stopping = trio.Event()
        self.tied = ""
        """Why this process cannot hand over, if it cannot."""

    @property
    def consoles(self) -> dict[str, BridgedConsole]:
        """By name, in the order in which they came."""
        return {name: running.bridged for name, running in self._running.items()}

    @property
    def places(self) -> list[Place]:
        return [bridged.place for bridged in self.consoles.values()]

    async def look(self, consoles: Collection[BridgedConsole]) -> None:
        """Learn of the machines behind ``consoles`` what a status tells; short, whatever they do."""
        machines = [bridged.machine for bridged in consoles]
        busy = {m.address for m in machines if m.wants_holder}
        await self._common.surroundings.look(busy, {m.qmp for m in machines if m.qmp is not None})

    async def run(self, ready: Callable[[], None]) -> None:
        """``ready`` is called when a stop signal would already end the service properly."""
        with process.heeded_signals() as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey_signals, signals, nursery)
                nursery.start_soon(self._common.logs.run)  # past the consoles, for their ends
                with self._serving:
                    await self._serve(ready)
                nursery.cancel_scope.cancel()

    async def _serve(self, ready: Callable[[], None]) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._common.presence.run)
            nursery.start_soon(self._common.listeners.run)
            nursery.start_soon(self.websockets.run)
            nursery.start_soon(self._watch)
            for running in self._running.values():
                nursery.start_soon(self._run_console, running)
            ready()

    async def _obey_signals(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        """Stop at the first signal to; ``_stop`` sees to it that no second one cuts that short.

        What takes its time runs in ``nursery``: it may wait for QEMU, a stop may not.
        """
        terminal, asked = process.has_terminal(), False
        async for number in signals:
            # HUP asks for a reload, or says (twice, maybe) that the terminal is closed.
            closed = self._reread is None or (terminal and not process.has_terminal())
            if self._serving.cancel_called:
                if self.ending is Ending.HAND_OVER:
                    process.hold(number)
            elif number == signal.SIGUSR2:
                nursery.start_soon(self._hand_over_or_say)
            elif number == signal.SIGTERM and self.restarting is not None and not asked:
                asked = True
                nursery.start_soon(self._hand_over_or_stop, self.restarting)
            elif number != signal.SIGHUP or closed:
                self._stop()
            else:
                nursery.start_soon(self.reload_and_say)

    async def _hand_over_or_stop(self, restarting: Callable[[], Awaitable[bool]]) -> None:
        if await restarting():
            await self._hand_over_or_say(Heir.SYSTEMD)
        self._stop()

    async def _hand_over_or_say(self, heir: Heir = Heir.EXEC) -> None:
        try:
            await self.hand_over(heir)
        except BridgeError as error:
            log.warning("%s", error)

    async def reload_and_say(self, *, nothing: bool = True) -> None:
        """``nothing``: even if nothing has changed."""
        try:
            done = await self.reload()
        except BridgeError as error:
            log.error("not reloaded: %s", error)  # noqa: TRY400 (the line says it all)
            return
        if nothing or done != Reloaded([], [], []):
            log.info("reloaded: %s", done)

    def add(self, settings: ConsoleSettings) -> None:
        """Bring in one more console; raises UsageError or StartError."""
        if settings.name in self._running:
            what = f"there is a console '{settings.name}' already"
            raise UsageError(f"{what}; give this one another name")
        check_unique([*self.settings, settings], self.websockets.settings)
        place = self.bind(settings).place
        ways = filter(None, (place.link, place.raw, place.telnet, place.unix))
        where = printable(", ".join(ways), 1000)
        log.info("%s: attach %s", place.name, f"at {where}" if where else "by its name")

    def bind(
        self,
        settings: ConsoleSettings,
        filed: ConsoleSettings | None = None,
        left: Left | None = None,
        *,
        given: bool = False,
        partly: bool = False,
    ) -> BridgedConsole:
        """Bind a console and, if the service runs, start it; raises StartError.

        ``partly``: what can't be bound doesn't keep it from being there (``unbound`` tells).
        """
        self._check_lasting()
        if settings.name in self._running:  # one was added while a reload waited
            raise StartError(f"there is a console '{settings.name}' already")
        bridged = BridgedConsole(settings, self._common, left, partly=partly)
        self._running[settings.name] = running = Running(bridged, filed, given)
        self._common.changed()
        if bridged.unbound:
            log.error("%s", bridged.unbound)
        if self._nursery is not None:
            self._nursery.start_soon(self._run_console, running)
        return bridged

    async def remove(self, name: str) -> None:
        """End a console; QEMU is left properly.  Raises StartError if there is none."""
        async with self._changing:
            self._check_lasting()
            running = self._find(name)
            running.scope.cancel()
            if running.given:
                self._removed[name] = dict(running.bridged.settings.source)
        await running.ended.wait()
        await self._common.keeper.settle()

    async def reload(self) -> Reloaded:
        """Read the configuration file again; raises ConfigError, and nothing has changed.

        Consoles that are not from the file are left alone.
        """
        if self._reread is None:
            raise StartError("started without a configuration file: there is nothing to reload")
        async with self._changing:
            await self._settle()
            configuration = self._reread()
            names = {settings.name for settings in configuration.consoles}
            found = names & set(self._discovery.names) & self._running.keys()
            others = [
                r.bridged.settings
                for name, r in self._running.items()
                if r.filed is None and name not in found
            ]
            check_unique([*others, *configuration.consoles], configuration.service)
            for name in found:  # and now named by the user: it becomes what he wants of it
                self._discovery.relinquish(name)
                self._running[name].filed = self._running[name].bridged.settings
            return await self._become(configuration)

    async def _become(self, configuration: Configuration) -> Reloaded:
        """Everything that goes goes first: what it holds, ports above all, may be wanted."""
        mine = {name: r for name, r in self._running.items() if r.filed is not None}
        filed = {settings.name: settings for settings in configuration.consoles}
        plan = difference(
            {name: r.filed for name, r in mine.items() if r.filed is not None},
            {name: r.bridged.settings for name, r in mine.items()},
            filed,
            {name for name, r in mine.items() if r.bridged.incomplete},
        )
        async with trio.open_nursery() as nursery:
            for name in plan.removed | plan.replaced:
                nursery.start_soon(mine[name].end)
            for name in plan.changed:
                nursery.start_soon(mine[name].bridged.let_go, plan.wanted[name])
        await self._common.keeper.settle()
        self._check_lasting()
        done = Reloaded(
            sorted(plan.added), sorted(plan.removed), sorted(plan.changed | plan.replaced)
        )
        try:
            done.service.extend(await self.websockets.change(configuration.service))
        except StartError as error:
            done.errors.append(str(error))
        self.configure(configuration)
        self._check_lasting()
        for name in [n for n in plan.wanted if n in plan.added | plan.changed | plan.replaced]:
            try:
                if name in plan.changed:
                    mine[name].filed = filed[name]
                    mine[name].bridged.take_up(plan.wanted[name])
                else:
                    # One that was there must not be gone because its port is taken.
                    partly = name in plan.replaced
                    bridged = self.bind(plan.wanted[name], filed[name], partly=partly)
                    if bridged.unbound:
                        done.errors.append(bridged.unbound)
            except StartError as error:
                done.errors.append(str(error))
        return done

    async def _settle(self) -> None:
        """Wait for the consoles that are ending: their names and ports are free then."""
        for running in tuple(self._running.values()):
            if running.scope.cancel_called:
                await running.ended.wait()

    def _check_lasting(self) -> None:
        """Raise StartError if it is too late to change anything."""
        if self._serving.cancel_called:
            if self.ending is Ending.HAND_OVER:
                raise StartError("a new process is just taking over; try again")
            raise StartError("the service is ending")

    # Consoles that are found.

    def configure(self, configuration: Configuration) -> None:
        """Heed what the configuration says beside its consoles and the websocket."""
        defaults, discovers = configuration.defaults, configuration.service.discover
        if (defaults, discovers) != (self._defaults, self._discovers):
            self._defaults, self._discovers = defaults, discovers
            self._watching.cancel()  # to begin anew; else what was removed by hand stays so

    async def _watch(self) -> None:
        """Bridge consoles as they are found, while the configuration wants that."""
        while True:
            self._watching = trio.CancelScope()
            with self._watching:
                if not self._discovers:
                    await trio.sleep_forever()
                await self._discovery.run()
            # What was removed by hand is forgotten.
            self._discovery = Discovery(self, self._make_found, self._discovery.names)

    def _make_found(self, name: str, url: UpstreamUrl, found: Found) -> ConsoleSettings:
        return self.make(name, {"url": str(url)} | found.keys)

    def make(self, name: str, table: object) -> ConsoleSettings:
        """Settings of a console that is not in the file, with the file's defaults.

        Raises ConfigError.
        """
        return console(name, table, self._defaults)

    @property
    def changing(self) -> bool:
        """Consoles are being changed: what is missing now may be about to come."""
        return self._changing.locked()

    @property
    def settings(self) -> Collection[ConsoleSettings]:
        """Of all consoles."""
        return [running.bridged.settings for running in self._running.values()]

    async def _run_console(self, running: Running) -> None:
        try:
            with running.scope:
                await running.bridged.run()
        finally:
            if running.bridged.console.ending is Ending.LEAVE:
                running.bridged.close()
                self._running.pop(running.bridged.settings.name, None)
            self._common.changed()
            running.ended.set()

    async def hand_over(self, heir: Heir = Heir.EXEC) -> None:
        """End ``run`` with nothing closed and nobody left: another process will go on.

        Raises StartError where that cannot be, and ConfigError where it would not start.
        """
        if why := self.tied or self.runtime.obstacle or succession.obstacle():
            raise StartError(f"not handed over: {why}")
        if self._reread is not None:
            self._reread()
        async with self._changing:
            await self._settle()
            self._check_lasting()
            self.ending, self.heir = Ending.HAND_OVER, heir
            for bridged in self.consoles.values():
                bridged.console.ending = Ending.HAND_OVER
            self._stop()

    def _stop(self) -> None:
        process.hold_signals()
        self.stopping.set()
        self._serving.cancel()

    def state(self, bag: Bag) -> Record:
        """What that process needs; after ``run``.  Before that a sketch, see handover.Bag."""
        return {
            "directory": str(self.runtime.path),
            "started": self.started,
            "websockets": self.websockets.state(bag),
            "found": list(self._discovery.names),
            "dismissed": list(self._discovery.dismissed),
            "removed": self._removed,
            "consoles": [running.state(bag) for running in self._running.values()],
        }

    def restore(self, record: Record, bag: Bag, given: Collection[ConsoleSettings]) -> None:
        """Go on from ``state``; before ``run``.

        ``given`` is what the command line says now: it may be another than it was.
        """
        if record["directory"] != str(self.runtime.path):
            raise RecordError(f"it is of the runtime directory {record['directory']}")
        self.started = record["started"]
        for each in record["consoles"]:
            settings = replace(console(each["name"], each["settings"]), **each["ports"])
            if each["given"] and settings not in given:
                continue
            filed = console(each["name"], each["filed"]) if each["filed"] is not None else None
            # Partly: a reload may have met already what another program has taken.
            self.bind(settings, filed, (each["bridged"], bag), given=each["given"], partly=True)
        self._removed = record["removed"]
        for settings in given:
            removed = self._removed.get(settings.name) == dict(settings.source)
            if settings.name not in self._running and not removed:
                self.bind(settings, given=True)
        self.websockets.restore(record["websockets"], bag)
        dismissed = map(tuple, record["dismissed"])
        self._discovery = Discovery(self, self._make_found, record["found"], dismissed)

    def _find(self, name: str) -> Running:
        try:
            return self._running[name]
        except KeyError:
            raise StartError(f"no console '{name}'") from None

    def _find_served(self, name: str) -> BridgedConsole | None:
        """The console that a websocket client wants; without a name, the only one."""
        if not name and len(self._running) == 1:
            (name,) = self._running
        running = self._running.get(name)
        if running is None or running.bridged.ended:
            return None
        return running.bridged

    def close(self) -> None:
        if self.ending is Ending.HAND_OVER:
            return
        self.websockets.close()
        for bridged in self.consoles.values():
            bridged.close()
