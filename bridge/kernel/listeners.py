"""Has a VM on this machine begun to listen?  One look for all consoles that wait.

A VM's output is lost while nobody is connected, so it should be reached soon after it
starts; but connecting twice a second for each of a thousand consoles is a storm.  The
kernel lists all listening sockets for the price of one connect.
"""

import math
import os
import socket
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

import trio

from bridge.kernel.sockdiag import tcp_listeners, unix_connected
from bridge.settings.url import TcpAddress, UnixAddress

INTERVAL = 0.5
FRESH = 0.9  # less than the second in which each of those that are queued asks

# Who listens at an address: socket inodes, or the socket file's identity; empty for nobody.
Listening = frozenset[object]
NOBODY: Listening = frozenset()

_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 (compared, not bound)


@dataclass(slots=True, eq=False)
class _Waiter:
    address: TcpAddress | UnixAddress
    known: Listening
    seen: trio.Event = field(default_factory=trio.Event)


class Listeners:
    """Looks while anybody waits; ``run`` is the service's task for it."""

    def __init__(self) -> None:
        self._held: dict[str, bool] = {}
        self._held_at = -math.inf
        self._waiters: set[_Waiter] = set()
        self._waiting = trio.Event()

    async def wait_other(self, address: TcpAddress | UnixAddress, known: Listening) -> None:
        """Wait until somebody listens at a local ``address`` who is not ``known``."""
        waiter = _Waiter(address, known)
        self._waiters.add(waiter)
        self._waiting.set()
        try:
            await waiter.seen.wait()
        finally:
            self._waiters.discard(waiter)

    def sees(self, address: TcpAddress | UnixAddress) -> bool:
        """Would a look find whoever listens at ``address``?"""
        return isinstance(address, UnixAddress) or bool(address.loopback and self._sighted)

    @cached_property
    def _sighted(self) -> bool:
        """Does the kernel tell who listens?  Some sandboxes' shows nothing."""
        try:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                return bool(tcp_listeners({probe.getsockname()[1]}))
        except OSError:  # no descriptor left, say: not known, so not relied on
            return False

    def is_held(self, path: str) -> bool:
        """Has the server at a Unix socket a client that is still there?  If not seen: yes.

        As of the last second, and one look for all who ask.
        """
        now = trio.current_time()
        if now >= self._held_at + FRESH:
            self._held, self._held_at = {}, now
            for row in unix_connected():
                if row.inode:  # accepted; its peer is 0 when the client has closed
                    self._held[row.name] = self._held.get(row.name, False) or row.peer != 0
        return self._held.get(path, True)

    async def run(self) -> None:
        while True:
            if not self._waiters:
                self._waiting = trio.Event()
                await self._waiting.wait()
            ports = {w.address.port for w in self._waiters if isinstance(w.address, TcpAddress)}
            tcp = _tcp_by_port(ports)
            for waiter in tuple(self._waiters):
                if _listening(waiter.address, tcp) - waiter.known:
                    waiter.seen.set()
            await trio.sleep(INTERVAL)


def who_listens(address: TcpAddress | UnixAddress) -> Listening:
    """Who listens at ``address`` now; nobody is known of an address on another machine."""
    ports = {address.port} if isinstance(address, TcpAddress) and address.loopback else set()
    return _listening(address, _tcp_by_port(ports))


def is_local(address: TcpAddress | UnixAddress) -> bool:
    return isinstance(address, UnixAddress) or bool(address.loopback)


def _listening(
    address: TcpAddress | UnixAddress, tcp: dict[int, list[tuple[str, int]]]
) -> Listening:
    match address:
        case TcpAddress(_, port):
            if port not in tcp:  # a thousand times in a row, where a thousand wait
                return NOBODY
            hosts = address.loopback | _WILDCARDS
            return frozenset(inode for host, inode in tcp[port] if host in hosts)
        case UnixAddress(path):
            try:
                status = os.stat(path)
            except OSError:
                return NOBODY
            # bind() makes the file anew; that listen() comes a moment later does not
            # matter: who is refused asks again.
            return frozenset({(status.st_dev, status.st_ino, status.st_ctime_ns)})


def _tcp_by_port(ports: AbstractSet[int]) -> dict[int, list[tuple[str, int]]]:
    found: dict[int, list[tuple[str, int]]] = {}
    for row in tcp_listeners(ports) if ports else ():
        host, port = row.local
        found.setdefault(port, []).append((host, row.inode))
    return found
