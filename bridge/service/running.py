"""A console in the service: where its settings come from, and its end."""

from dataclasses import dataclass, field

import trio

from bridge.base.handover import Bag, Record
from bridge.service.bridged import BridgedConsole
from bridge.settings.config import PORTS, ConsoleSettings


@dataclass(slots=True, eq=False)
class Running:
    """What the service knows of a console beside the console itself."""

    bridged: BridgedConsole
    filed: ConsoleSettings | None
    """Its settings as the configuration file has them; None if it is not from there."""
    given: bool
    """It is from the command line."""
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)

    async def end(self) -> None:
        self.scope.cancel()
        await self.ended.wait()

    def state(self, bag: Bag) -> Record:
        """What the next process needs to go on; see ``BridgedConsole.state``."""
        settings = self.bridged.settings
        return {
            "name": settings.name,
            "settings": dict(settings.source),
            "ports": {key: getattr(settings, key) for key in PORTS},
            "filed": dict(self.filed.source) if self.filed is not None else None,
            "given": self.given,
            "bridged": self.bridged.state(bag),
        }
