"""A locked console freed, when the user asks for it and nobody is harmed."""

import trio
from trio.to_thread import run_sync

from bridge.base.errors import StartError
from bridge.kernel.listeners import is_local
from bridge.service.machine import QMP_MISSING, Machine
from bridge.settings.config import ConsoleSettings
from bridge.settings.url import Inner
from bridge.vms.neighbours import holders, is_held
from bridge.vms.qemuargs import Tcp
from bridge.vms.qmp import CHARDEVS, Listening
from bridge.vms.rescue import rescue
from bridge.vms.which import peer_at

NO_RESCUE = f"there is no QMP to do it by; {QMP_MISSING}"


async def rescue_console(machine: Machine, settings: ConsoleSettings) -> None:
    """Have QEMU forget the client that has left badly; raises BridgeError.

    Not where a client may be there: it would be thrown out.
    """
    address = machine.address
    if is_local(address) and await run_sync(is_held, address):
        known = await run_sync(holders, [address])
        raise StartError(f"it is not locked: {known.get(address, 'somebody')} has it")
    qmp = await machine.monitor(NO_RESCUE)
    if settings.url.tls:
        raise StartError("chardev-change would take its TLS away; system_reset may free it")
    host, how = _listening(machine, settings)
    async with machine.surroundings.monitors.visit(qmp) as link:
        chardevs = await link.execute(CHARDEVS)
        peer = peer_at(address, chardevs)
        if peer is not None and not is_local(address):
            raise StartError(f"{peer} has it, and from here it can't be seen if that is so")
        with trio.CancelScope(shield=True):  # half of it would leave QEMU at another address
            await link.converse(rescue(address, host, how))


def _listening(machine: Machine, settings: ConsoleSettings) -> tuple[str | None, Listening]:
    """How QEMU was told to listen, as far as it is known: QMP tells little of it."""
    if machine.found is None:
        return None, Listening(settings.url.websocket, settings.upstream is Inner.TELNET)
    chardev = machine.found.chardev
    host = chardev.address.host if isinstance(chardev.address, Tcp) else None
    return host, Listening(chardev.websocket, chardev.telnet, chardev.logfile)
