"""The making of a service: everything is bound, or StartError is raised.

What it gives is then run.  So the addresses that are announced are real, and a port in use
is found before anything starts.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bridge.base.errors import StartError
from bridge.base.handover import NOBODY, Keeper, Left
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
    lock: int | None = None,
    keeper: Keeper = NOBODY,
) -> Iterator[Service]:
    """Bind everything; raises StartError.  On leaving, everything is closed and unpublished.

    ``filed`` is what the configuration file says; ``reread`` reads it again.  ``changed``
    is called when a console has come, gone, or changed its state.  ``left`` is what another
    process has left, and ``lock`` the lock of the directory if that is open yet: its
    consoles are taken as they are, and of ``consoles`` those that the file does not name.
    ``keeper`` is told of all descriptors.
    """
    filed = filed or Configuration()
    consoles, own = list(consoles), {settings.name: settings for settings in filed.consoles}
    process.raise_descriptor_limit(len(consoles))
    with ExitStack() as stack:
        runtime = stack.enter_context(RuntimeDirectory(directory, lock, inherited=left is not None))
        presence = stack.enter_context(_presence())
        logs = Logs(log_directory(), warn)
        common = Common(runtime, presence, Listeners(), logs, keeper, changed)
        service = Service(common, reread)
        stack.callback(service.close)
        service.configure(filed)
        if left is not None:
            given = [settings for settings in consoles if settings.name not in own]
            service.restore(*left, given)
            runtime.sweep_sockets({place.name for place in service.places if place.unix})
        else:
            for settings in consoles:
                filed_as = own.get(settings.name)
                service.bind(settings, filed_as, given=filed_as is None)
            service.websockets.open(filed.service)
        yield service


def _presence() -> Presence:
    try:
        return Presence()
    except OSError as error:
        raise StartError(
            f"inotify: {error.strerror} (sysctl fs.inotify.max_user_instances)"
        ) from error
