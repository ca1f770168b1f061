"""What the kernel says of sockets, by netlink and, where that is missing, by /proc/net."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.kernel import sockdiag
from bridge.kernel.sockdiag import TcpState


@pytest.fixture(params=["netlink", "proc"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each case on both sources, which must agree."""
    if request.param == "proc":

        def missing(request: bytes, flags: int) -> Iterator[bytes]:
            raise sockdiag._NoSockDiagError  # noqa: SLF001

        monkeypatch.setattr(sockdiag, "_ask", missing)
    return str(request.param)


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A listener, dual-stack in the last case, and a client that it has not accepted yet."""
    dual = request.param == "::"
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family, dualstack_ipv6=dual) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1" if dual else request.param, port)) as client:
            yield listener, client


def ends(client: socket.socket) -> tuple[tuple[str, int], tuple[str, int]]:
    return client.getsockname()[:2], client.getpeername()[:2]


def test_a_connection_has_its_owner(source: str, pair: tuple[socket.socket, socket.socket]) -> None:
    _, client = pair
    row = sockdiag.find_tcp(*ends(client))
    assert row is not None
    assert (row.state, row.uid) == (TcpState.ESTABLISHED, os.getuid())
    assert row.inode == os.fstat(client.fileno()).st_ino


def test_a_queued_connection_has_no_inode_an_accepted_one_has(
    source: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    listener, client = pair
    own, peer = ends(client)
    queued = sockdiag.find_tcp(peer, own)
    assert queued is not None
    assert queued.inode == 0
    with listener.accept()[0] as server:
        accepted = sockdiag.find_tcp(peer, own)
        assert accepted is not None
        assert accepted.inode == os.fstat(server.fileno()).st_ino
        assert accepted in sockdiag.connected_to(peer[1])


def test_a_closed_client_has_no_inode(
    source: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    """Its uid means nothing then: some kernels give 0, as if it were root's."""
    listener, client = pair
    own, peer = ends(client)
    with listener.accept()[0]:
        client.close()
        row = sockdiag.find_tcp(own, peer)
        assert row is None or row.inode == 0


def test_no_connection_is_none_and_not_the_listener(
    source: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    _, client = pair
    (host, _), peer = ends(client)
    assert sockdiag.find_tcp(peer, (host, 1)) is None


def test_listeners_are_listed(source: str, pair: tuple[socket.socket, socket.socket]) -> None:
    listener, _ = pair
    inode = os.fstat(listener.fileno()).st_ino
    (_, port) = own = listener.getsockname()[:2]
    for ports in ({port}, {port, 1}, {port, 1, 2}):  # asked for alone, and chosen from all
        rows = sockdiag.tcp_listeners(ports)
        assert {row.local[1] for row in rows} == {port}
        assert [row.local for row in rows if row.inode == inode] == [own]
    assert sockdiag.tcp_listeners({1, 2}) == []


def test_unix_peer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        client.connect(str(tmp_path / "s"))
        assert sockdiag.unix_peer_accepted(client.fileno()) is False
        with listener.accept()[0]:
            assert sockdiag.unix_peer_accepted(client.fileno()) is True


@pytest.fixture(params=["path", "relative", "abstract"])
def unix_name(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A name to bind; NUL first for an abstract one."""
    monkeypatch.chdir(tmp_path)
    if request.param == "abstract":
        return f"\0ttybridge test {os.getpid()}"
    return str(tmp_path / "a b") if request.param == "path" else "a b"


def test_unix_sockets_are_listed(source: str, unix_name: str) -> None:
    shown = unix_name.replace("\0", "@")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(unix_name)
        listener.listen(1)
        (row,) = [row for row in sockdiag.unix_listeners() if row.name == shown]
        assert row.inode == os.fstat(listener.fileno()).st_ino
        client.connect(unix_name)

        def accepted() -> list[sockdiag.UnixSocket]:
            rows = [row for row in sockdiag.unix_connected() if row.name == shown]
            return [row for row in rows if row.inode]

        assert accepted() == []
        with listener.accept()[0] as server:
            (row,) = accepted()
            assert row.inode == os.fstat(server.fileno()).st_ino
            proc = source == "proc"  # which does not tell
            assert row.peer == (None if proc else os.fstat(client.fileno()).st_ino)
            client.close()
            assert [row.peer for row in accepted()] == [None if proc else 0]
