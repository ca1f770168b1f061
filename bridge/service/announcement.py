"""What the service says on standard output when all is bound: however late that is read."""

import logging
import sys

from bridge.service.outlet import Outlet

log = logging.getLogger("ttybridge")

_OUTPUT = 1


class Announcement:
    """Written as fast as it is read; the loop never waits for whoever should read it."""

    def __init__(self) -> None:
        self.rest = b""
        """What has not been written yet."""

    def say(self, text: str) -> None:
        """What ``run`` is to write; nothing where standard output was closed by who started us."""
        if sys.stdout is not None:
            self.rest = text.encode(sys.stdout.encoding, "backslashreplace")

    async def run(self) -> None:
        """Write it; what goes wrong is said, and the consoles are served all the same."""
        outlet = Outlet(_OUTPUT)
        outlet.rest = self.rest
        try:
            await outlet.drain()
        except OSError as error:
            log.warning("standard output: %s", error.strerror)
            outlet.rest = b""
        finally:
            self.rest = outlet.rest  # for the next process
