"""Which listening socket is which chardev's; test_discovery.py asks a real QEMU."""

import pytest

from bridge.kernel.sockdiag import TcpSocket, TcpState, UnixSocket
from bridge.settings.url import TcpAddress, UnixAddress
from bridge.vms.locate import Sockets, locate
from bridge.vms.qemuargs import Chardev, Fd, Tcp, Unix


def row(host: str, port: int, inode: int) -> TcpSocket:
    return TcpSocket(TcpState.LISTEN, (host, port), ("0.0.0.0", 0), 0, inode)


def where(
    *chardevs: Tcp | Unix | Fd,
    tcp: list[TcpSocket] | None = None,
    unix: list[UnixSocket] | None = None,
    own: dict[int, int] | None = None,
    argv: str = "",
    directory: str | None = "/vm",
) -> list[str | None]:
    """The address of each chardev."""
    named = [Chardev(str(i), address) for i, address in enumerate(chardevs)]
    found = locate(named, argv.split(), Sockets(tcp or [], unix or [], own, directory))
    return [str(found[c.id].address) if c.id in found else None for c in named]


ALL = [row("127.0.0.1", 40000, 7), row("127.0.0.1", 4555, 8), row("127.0.0.1", 50000, 9)]


def test_a_fixed_port_is_found_by_its_number() -> None:
    assert where(Tcp("127.0.0.1", 4555), tcp=ALL) == ["127.0.0.1:4555"]
    assert where(Tcp("127.0.0.1", 4555), tcp=ALL, own={3: 8}) == ["127.0.0.1:4555"]
    assert where(Tcp("127.0.0.1", 4556), tcp=ALL) == [None]


def test_a_port_that_another_process_has_is_not_ours() -> None:
    assert where(Tcp("127.0.0.1", 4555), tcp=ALL, own={3: 7}) == [None]


def test_free_ports_are_given_in_the_order_of_descriptors() -> None:
    own = {10: 9, 11: 8, 12: 7}
    found = where(
        Tcp("127.0.0.1", 0), Tcp("127.0.0.1", 4555), Tcp("127.0.0.1", 0), tcp=ALL, own=own
    )
    assert found == ["127.0.0.1:50000", "127.0.0.1:4555", "127.0.0.1:40000"]


def test_a_free_port_is_none_that_the_command_line_names() -> None:
    own = {1: 7, 2: 9}
    assert where(
        Tcp("127.0.0.1", 0), tcp=ALL, own=own, argv="-netdev user,hostfwd=tcp::40000-:22"
    ) == ["127.0.0.1:50000"]


def test_a_free_port_cannot_be_told_without_a_look_into_the_process() -> None:
    assert where(Tcp("127.0.0.1", 0), Tcp("127.0.0.1", 4000, 5000), tcp=ALL) == [None, None]


def test_a_range() -> None:
    own = {1: 7, 2: 8, 3: 9}
    assert where(Tcp("127.0.0.1", 4550, 4560), tcp=ALL, own=own) == ["127.0.0.1:4555"]
    assert where(Tcp("127.0.0.1", 4550, 4554), tcp=ALL, own=own) == [None]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Tcp("", 1), "127.0.0.1:1"),
        (Tcp("", 1, ipv4=False), "[::1]:1"),
        (Tcp("localhost", 2), "localhost:2"),
        (Tcp("::1", 2), "[::1]:2"),
        (Tcp("0.0.0.0", 1), "127.0.0.1:1"),
        (Tcp("10.0.0.1", 3), "10.0.0.1:3"),
        (Tcp("10.0.0.2", 3), None),
        (Tcp("myhost", 3), "myhost:3"),
    ],
)
def test_hosts(wanted: Tcp, found: str | None) -> None:
    tcp = [row("::", 1, 1), row("0.0.0.0", 1, 2), row("::1", 2, 3), row("10.0.0.1", 3, 4)]
    assert where(wanted, tcp=tcp) == [found]


def test_a_name_with_two_addresses_takes_both() -> None:
    tcp = [row("127.0.0.1", 40000, 1), row("::1", 40001, 2), row("127.0.0.1", 40002, 3)]
    wanted = Tcp("localhost", 0)
    found = where(wanted, wanted, tcp=tcp, own={1: 1, 2: 2, 3: 3})
    assert found == ["localhost:40000", "localhost:40002"]


def test_unix() -> None:
    unix = [
        UnixSocket("/a", TcpState.LISTEN, 1, None),
        UnixSocket("b", TcpState.LISTEN, 2, None),
        UnixSocket("@c", TcpState.LISTEN, 3, None),
    ]
    addresses = (Unix("/a"), Unix("b"), Unix("c", abstract=True), Unix("c"))
    assert where(*addresses, unix=unix) == ["/a", "/vm/b", "None", None]
    assert where(Unix("/a"), unix=unix, own={1: 2}) == [None]


def test_descriptors() -> None:
    unix = [UnixSocket("/a", TcpState.LISTEN, 1, None)]
    own = {3: 8, 4: 1, 5: 99}
    found = where(Fd(3), Fd(4), Fd(5), Fd(None), tcp=ALL, unix=unix, own=own)
    assert found == ["127.0.0.1:4555", str(UnixAddress("/a")), None, None]
    assert where(Fd(3), tcp=ALL) == [None]
    assert str(TcpAddress("127.0.0.1", 4555)) == "127.0.0.1:4555"
