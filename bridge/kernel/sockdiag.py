"""Questions to the kernel about sockets on this machine: whose, in what state, accepted?

Asked through NETLINK_SOCK_DIAG (sock_diag(7)): some 15 microseconds for one socket,
where /proc/net/tcp costs milliseconds; that file is read where the netlink family is
missing (some containers and sandboxes).
"""

import os
import socket
import struct
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trio

_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NETLINK_SOCK_DIAG = 4
_NLM_F_REQUEST, _NLM_F_DUMP = 0x001, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLMSGHDR = struct.Struct("=LHHLL")
# inet_diag_req_v2 up to its inet_diag_sockid, that sockid, and what follows it in an
# inet_diag_msg: expires, rqueue, wqueue, uid, inode (linux/inet_diag.h).
_INET_REQUEST = struct.Struct("=BBBBL")
_SOCKID = struct.Struct("=2s2s16s16sL8s")
_INET_ANSWER = struct.Struct("=BBBB")
_SPORT = struct.Struct("!H")  # the first of a sockid
_INET_REST = struct.Struct("=LLLLL")
_NO_COOKIE = b"\xff" * 8
# unix_diag_req and unix_diag_msg (linux/unix_diag.h).
_UNIX_REQUEST = struct.Struct("=BBHLLL8s")
_UNIX_ANSWER = struct.Struct("=BBBBL8s")
_UDIAG_SHOW_NAME, _UDIAG_SHOW_PEER = 1, 4
_UNIX_DIAG_NAME, _UNIX_DIAG_PEER = 0, 2

Endpoint = tuple[str, int]  # numeric address and port


class TcpState(IntEnum):
    """Those that matter here (net/tcp_states.h)."""

    ESTABLISHED = 1
    CLOSE_WAIT = 8
    LISTEN = 10


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One row.  ``inode`` is 0 for a socket that no process holds.

    That is one not accepted yet, or one closed by its process.  Kernels give uid 0 for
    them, or the last owner's, so a uid means something only beside an inode.
    """

    state: int
    local: Endpoint
    remote: Endpoint
    uid: int
    inode: int


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """One row.  ``name`` is as it was bound: a path, even a relative one, or ``@abstract``.

    ``inode`` is 0 for a socket that no process holds: one not accepted yet.  So is
    ``peer`` where the other end is closed; it is None where it can't be seen.
    """

    name: str
    state: int
    inode: int
    peer: int | None


def find_tcp(local: Endpoint, remote: Endpoint) -> TcpSocket | None:
    """The connected socket whose own end is ``local``, or None."""
    family = socket.AF_INET6 if ":" in local[0] else socket.AF_INET
    sockid = _SOCKID.pack(
        _port(local[1]), _port(remote[1]), _address(local[0]), _address(remote[0]), 0, _NO_COOKIE
    )
    try:
        rows = list(_inet(family, sockid, _NLM_F_REQUEST, states=0xFFFFFFFF))
    except _NoSockDiagError:
        rows = [row for row in _proc_net() if (row.local, row.remote) == (local, remote)]
    # Where no connection fits, the kernel answers with the listening socket instead.
    return next((row for row in rows if row.state != TcpState.LISTEN), None)


def tcp_listeners(ports: AbstractSet[int] | None = None) -> list[TcpSocket]:
    """All sockets that listen on one of ``ports``, by default on any."""
    return _dump(1 << TcpState.LISTEN, ports)


def connected_to(port: int) -> list[TcpSocket]:
    """The sockets that local servers on ``port`` have accepted or queued."""
    return _dump(1 << TcpState.ESTABLISHED | 1 << TcpState.CLOSE_WAIT, {port})


def accepted(connection: "socket.socket | trio.socket.SocketType") -> bool | None:
    """Has the server at the other end accepted it, or is it queued?  None if that cannot be seen."""
    if connection.family == socket.AF_UNIX:
        return unix_peer_accepted(connection.fileno())
    try:
        # The server's end, if it is on this machine.
        theirs = find_tcp(connection.getpeername()[:2], connection.getsockname()[:2])
    except OSError:  # reset
        return None
    return None if theirs is None else theirs.inode != 0


def unix_peer_accepted(fd: int) -> bool | None:
    """Has the server accepted this connected Unix socket?  None if it can't be told."""
    inode = os.fstat(fd).st_ino
    request = _UNIX_REQUEST.pack(
        socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _UDIAG_SHOW_PEER, _NO_COOKIE
    )
    try:
        for message in _ask(request, _NLM_F_REQUEST):
            for kind, value in _attributes(message[_UNIX_ANSWER.size :]):
                if kind == _UNIX_DIAG_PEER:
                    # A socket that waits to be accepted has no inode yet.
                    return struct.unpack("=L", value[:4]) != (0,)
    except _NoSockDiagError:
        pass
    return None


def unix_listeners() -> list[UnixSocket]:
    """All listening Unix sockets of the kinds that have a name."""
    return _unix(1 << TcpState.LISTEN)


def unix_connected() -> list[UnixSocket]:
    """The sockets that servers have accepted: those have the listener's name.

    /proc has those that are queued, too, with no inode.
    """
    return _unix(1 << TcpState.ESTABLISHED)


def _unix(states: int) -> list[UnixSocket]:
    request = _UNIX_REQUEST.pack(
        socket.AF_UNIX, 0, 0, states, 0, _UDIAG_SHOW_NAME | _UDIAG_SHOW_PEER, _NO_COOKIE
    )
    rows = []
    try:
        for message in _ask(request, _NLM_F_REQUEST | _NLM_F_DUMP):
            _, _, state, _, inode, _ = _UNIX_ANSWER.unpack_from(message)
            told = dict(_attributes(message[_UNIX_ANSWER.size :]))
            if name := told.get(_UNIX_DIAG_NAME):
                peer = told.get(_UNIX_DIAG_PEER)
                peer_inode = struct.unpack("=L", peer[:4])[0] if peer else None
                rows.append(UnixSocket(_unix_name(name), state, inode, peer_inode))
    except _NoSockDiagError:
        return [row for row in _proc_net_unix() if 1 << row.state & states]
    return rows


def _unix_name(name: bytes) -> str:
    # An abstract name begins with NUL, and may be filled up with more (unix(7)).
    if name.startswith(b"\0"):
        name = b"@" + name[1:]
    return os.fsdecode(name.rstrip(b"\0"))


class _NoSockDiagError(Exception):
    """The kernel does not answer such questions here."""


def _dump(states: int, ports: AbstractSet[int] | None) -> list[TcpSocket]:
    # The kernel can choose by one port; of what it lists in vain only the port is decoded.
    one = next(iter(ports)) if ports is not None and len(ports) == 1 else 0
    sockid = _SOCKID.pack(_port(one), b"", b"", b"", 0, _NO_COOKIE)
    try:
        return [
            row
            for family in (socket.AF_INET, socket.AF_INET6)
            for row in _inet(family, sockid, _NLM_F_REQUEST | _NLM_F_DUMP, states, ports)
        ]
    except _NoSockDiagError:
        return [
            row
            for row in _proc_net()
            if 1 << row.state & states and (ports is None or row.local[1] in ports)
        ]


def _inet(
    family: int, sockid: bytes, flags: int, states: int, ports: AbstractSet[int] | None = None
) -> Iterator[TcpSocket]:
    request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, states) + sockid
    for message in _ask(request, flags):
        if ports is not None and _SPORT.unpack_from(message, _INET_ANSWER.size)[0] not in ports:
            continue
        answered_family, state, _, _ = _INET_ANSWER.unpack_from(message)
        sport, dport, src, dst, _, _ = _SOCKID.unpack_from(message, _INET_ANSWER.size)
        rest = _INET_REST.unpack_from(message, _INET_ANSWER.size + _SOCKID.size)
        yield TcpSocket(
            state,
            (_text(answered_family, src), int.from_bytes(sport, "big")),
            (_text(answered_family, dst), int.from_bytes(dport, "big")),
            uid=rest[3],
            inode=rest[4],
        )


def _ask(request: bytes, flags: int) -> Iterator[bytes]:
    """Send one request, yield the payload of each answer.

    Raises _NoSockDiagError where the kernel says no.  It says ENOENT for "no such socket"
    and for "no such module" alike, so the other source is asked then, too.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as netlink:
            size = _NLMSGHDR.size + len(request)
            netlink.send(_NLMSGHDR.pack(size, _SOCK_DIAG_BY_FAMILY, flags, 0, 0) + request)
            while True:
                for kind, payload in _messages(netlink.recv(1 << 16)):
                    if kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                        (number,) = struct.unpack_from("=l", payload)
                        if number < 0:
                            raise OSError(-number, os.strerror(-number))
                        return
                    yield payload
                    if not flags & _NLM_F_DUMP:
                        return
    except OSError as error:
        raise _NoSockDiagError from error


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NLMSGHDR.size <= len(data):
        size, kind, _, _, _ = _NLMSGHDR.unpack_from(data, at)
        yield kind, data[at + _NLMSGHDR.size : at + size]
        at += size + 3 & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        yield kind, data[at + 4 : at + size]
        at += max(4, size + 3 & ~3)


def _port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _address(text: str) -> bytes:
    return ip_address(text.partition("%")[0]).packed


def _text(family: int, packed: bytes) -> str:
    return _plain(ip_address(packed[:4] if family == socket.AF_INET else packed))


def _plain(address: IPv4Address | IPv6Address) -> str:
    # A dual-stack socket names an IPv4 peer ::ffff:a.b.c.d.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _proc_net() -> Iterator[TcpSocket]:
    """The rows of /proc/net/tcp and tcp6 (proc(5)); an unreadable file has none."""
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{name}", encoding="ascii") as table:
                next(table)
                for row in table:
                    field = row.split()
                    yield TcpSocket(
                        int(field[3], 16),
                        _proc_endpoint(field[1]),
                        _proc_endpoint(field[2]),
                        uid=int(field[7]),
                        inode=int(field[9]),
                    )
        except OSError:
            continue


def _proc_net_unix() -> Iterator[UnixSocket]:
    """The rows of /proc/net/unix that have a name; it does not tell peers (proc(5))."""
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
            next(table)
            for row in table:
                # Num RefCount Protocol Flags Type St Inode Path, which may hold blanks.
                field = row.rstrip("\n").split(maxsplit=7)
                if len(field) == 8:
                    listening = int(field[3], 16) & _SO_ACCEPTCON
                    state = TcpState.LISTEN if listening else _SOCKET_STATES.get(int(field[5], 16))
                    yield UnixSocket(field[7], state or 0, int(field[6]), None)
    except OSError:
        return


_SO_ACCEPTCON = 0x10000
# SS_CONNECTING is what an accepted connection has that nobody has taken yet.
_SOCKET_STATES = {2: TcpState.ESTABLISHED, 3: TcpState.ESTABLISHED}


def _proc_endpoint(text: str) -> Endpoint:
    # The address is printed as native-endian 32-bit words.
    address, _, port = text.partition(":")
    words = [int(address[i : i + 8], 16) for i in range(0, len(address), 8)]
    return _plain(ip_address(struct.pack(f"={len(words)}L", *words))), int(port, 16)
