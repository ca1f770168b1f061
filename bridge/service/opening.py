"""The making of a service: everything is bound, or StartError is raised.

What it gives is then run.  So the addresses that are announced are real, and a port in use
is found before anything starts.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bridge.base.errors import StartError
from bridge.base.handover import Left
from bridge.kernel.listeners import Listeners
from bridge.kernel.presence import Presence
from bridge.kernel.runtime import RuntimeDirectory
from bridge.logs.segments import log_directory
from bridge.logs.writer import Logs
from bridge.service import process
from bridge.service.parts import Common, warn
from bridge.service.service import Service
from bridge.settings.config import Configuration, ConsoleSettings


@contextmanager
def open_service(
    consoles: Iterable[ConsoleSettings],
    directory: Path,
    *,
    filed: Configuration | None = None,
    reread: Callable[[], Configuration] | None = None,
    changed: Callable[[], None] = lambda: None,
    left: Left | None = None,
) -> Iterator[Service]:
    """Bind everything; raises StartError.  On leaving, everything is closed and unpublished.

    ``filed`` is what the configuration file says; ``reread`` reads it again.  ``changed``
    is called when a console has come, gone, or changed its state.  ``left`` is what another
    process has handed over; its consoles are taken as they are, and no others.
    """
    filed = filed or Configuration()
    consoles, own = list(consoles), {settings.name: settings for settings in filed.consoles}
    process.raise_descriptor_limit(len(consoles))
    with ExitStack() as stack:
        lock = left[1].take(left[0]["lock"]) if left is not None else None
        runtime = stack.enter_context(RuntimeDirectory(directory, lock))
        presence = stack.enter_context(_presence())
        logs = Logs(log_directory(), warn)
        service = Service(Common(runtime, presence, Listeners(), logs, changed), reread)
        stack.callback(service.close)
        service.configure(filed)
        if left is not None:
            service.restore(*left)
        else:
            for settings in consoles:
                service.bind(settings, own.get(settings.name))
            service.websockets.open(filed.service)
        yield service


def _presence() -> Presence:
    try:
        return Presence()
    except OSError as error:
        raise StartError(
            f"inotify: {error.strerror} (sysctl fs.inotify.max_user_instances)"
        ) from error
