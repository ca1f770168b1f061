"""The examination of a URL for which no service runs: a console just for it, left properly."""

import socket
import struct
from collections.abc import Callable

import trio

from bridge.console.attach import Attachment
from bridge.console.channel import FdChannel
from bridge.console.console import Console
from bridge.console.manners import Kind, Manners
from bridge.console.pacing import Input, Pacer
from bridge.console.states import State
from bridge.doctor.diagnosis import Diagnosis, Patient, diagnose, unreached
from bridge.doctor.examination import KEPT
from bridge.doctor.session import examine
from bridge.kernel.listeners import Listeners
from bridge.settings.access import Access
from bridge.settings.url import UpstreamUrl
from bridge.upstream.protocol import Speech
from bridge.upstream.reach import Reach
from bridge.upstream.transport import Transport
from bridge.upstream.upstream import SILENCE_LIMIT, Upstream

# A server that is merely slow to answer looks busy at first.
SERVED = 2.0


class _Visit(Reach):
    """Ends with a reset where the server has not let go in time.

    A plain TCP chardev of QEMU's sees the end of the stream only once the guest has read what
    was before it; one that never reads our Enter would have nobody else served (measured on
    QEMU 7.2).  A websocket's it sees at once, and a reset would lock it.
    """

    async def connect(self) -> tuple[Transport, Speech]:
        transport, speech = await super().connect()
        if self.url.lossless:
            at_once = struct.pack("ii", 1, 0)
            transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        return transport, speech


def visit(url: UpstreamUrl, *, mute: str, warn: Callable[[str], None]) -> Diagnosis:
    """Connect to ``url``, examine what is there, and leave."""
    try:
        return trio.run(_visit, url, mute, warn)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):  # after which QEMU has been left, too
            raise KeyboardInterrupt from None
        raise


async def _visit(url: UpstreamUrl, mute: str, warn: Callable[[str], None]) -> Diagnosis:
    changed = trio.Event()

    def on_state(_console: Console) -> None:
        nonlocal changed
        changed.set()
        changed = trio.Event()

    async def settle(state: State, limit: float) -> None:
        """Wait while it is in ``state``."""
        with trio.move_on_after(limit):
            while console.state is state:
                await changed.wait()

    console = Console(
        url.default_name, str(url), scrollback=KEPT, pacer=Pacer(Input.DIRECT), on_state=on_state
    )
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, trio.socket.from_stdlib_socket(ours) as client:
        attachment = Attachment(console, FdChannel(client), Manners(Kind.ATTACH))
        listeners = Listeners()
        upstream = Upstream(console, _Visit(url, Access()), listeners, warn)
        async with trio.open_nursery() as nursery:
            for task in (listeners.run, console.run, attachment.run, upstream.run):
                nursery.start_soon(task)
            await settle(State.CONNECTING, SILENCE_LIMIT + SERVED)
            await settle(State.BUSY, SERVED)
            diagnosis = await _diagnose(console, theirs, mute)
            nursery.cancel_scope.cancel()
    return diagnosis


async def _diagnose(console: Console, stream: socket.socket, mute: str) -> Diagnosis:
    def online() -> bool:
        return console.state is State.ONLINE

    examination = None
    if online():
        examination = await trio.to_thread.run_sync(
            lambda: examine(stream, mute=mute, online=online), abandon_on_cancel=True
        )
    patient = Patient(console.name, console.url, console.state, console.reason)
    if examination is None or not online():
        return unreached(patient)
    return diagnose(patient, examination)
