"""QMP: the protocol by bytes, then both clients on a real QEMU."""

import contextlib
import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from bridge.base.errors import UrlError
from bridge.settings.monitor import Address, address_text, parse_address
from bridge.settings.url import TcpAddress, UnixAddress
from bridge.vms import qmp
from bridge.vms.qmp import (
    ANSWER_LIMIT,
    CAPABILITIES,
    CHARDEVS,
    NAME,
    STATUS,
    VERSION,
    CharInfo,
    Command,
    Protocol,
    QmpError,
    QmpRefusedError,
    SocketInfo,
    Talk,
    Version,
)
from bridge.vms.qmplink import open_qmp
from bridge.vms.qmpsync import QmpSession
from bridge.vms.vms import Told, inquire
from tests.conftest import Boot
from tests.support.machine import Machine, machine
from tests.support.peer import Peer
from tests.support.qemu import free_port
from tests.support.user import User
from tests.support.waiting import eventually

VERSION_7 = {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "Debian 1"}
MESSAGES: list[dict[str, Any]] = [
    {"QMP": {"version": VERSION_7, "capabilities": ["oob"]}},
    {"return": {}, "id": 1},
    {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}},
    {"error": {"class": "GenericError", "desc": "no \x1b such {\n} thing"}, "id": 2},
    {"return": {"name": "a }\n{ b"}, "id": 3},
    {"event": "SHUTDOWN", "data": {"guest": True}},
]


def encode(pretty: bool) -> bytes:
    """As QEMU writes them: with -qmp-pretty each over several lines."""
    indent = 4 if pretty else None
    return b"".join(json.dumps(m, indent=indent).encode() + b"\r\n" for m in MESSAGES)


def outcome(pieces: list[bytes]) -> tuple[object, ...]:
    protocol = Protocol()
    for command in (CAPABILITIES, STATUS, NAME):
        protocol.request(command)
    for piece in pieces:
        protocol.receive(piece)
    assert all(protocol.answered(n) for n in (1, 2, 3))
    with pytest.raises(QmpRefusedError) as refused:
        protocol.answer(2, STATUS)
    protocol.answer(1, CAPABILITIES)
    events = [(event.name, event.data) for event in protocol.events]
    return protocol.version, str(refused.value), protocol.answer(3, NAME), events


EXPECTED = (
    Version((7, 2, 22), "7.2.22 (Debian 1)"),
    "query-status: no \\x1b such {\\n} thing",
    "a }\n{ b",
    [("STOP", {}), ("SHUTDOWN", {"guest": True})],
)


@pytest.mark.parametrize("pretty", [False, True])
def test_messages_whole_and_byte_by_byte(pretty: bool) -> None:
    data = encode(pretty)
    assert outcome([data]) == EXPECTED
    assert outcome([bytes([byte]) for byte in data]) == EXPECTED


@given(st.lists(st.integers(0, len(encode(pretty=True)))), st.booleans())
def test_messages_cut_anywhere(cuts: list[int], pretty: bool) -> None:
    data = encode(pretty)
    borders = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(borders)]
    assert outcome(pieces) == EXPECTED


ANY: tuple[Command[Any], ...] = (CHARDEVS, VERSION, STATUS, NAME, qmp.children("/"))


@given(st.one_of(st.binary(), st.recursive(st.none() | st.text(), st.lists).map(repr)))
def test_whatever_comes_raises_qmp_errors_only(data: bytes | str) -> None:
    protocol = Protocol()
    with contextlib.suppress(QmpError):
        protocol.receive(data if isinstance(data, bytes) else data.encode() + b"\n")


@given(
    st.dictionaries(
        st.sampled_from(["QMP", "return", "error", "id", "event", "data"]),
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["version", "qemu", "desc"]), inner)
            ),
        ),
    )
)
def test_whatever_message_comes_raises_qmp_errors_only(message: dict[str, Any]) -> None:
    protocol = Protocol()
    try:
        for command in (*ANY, CAPABILITIES):
            number, _ = protocol.request(command)
            protocol.receive(json.dumps(message | {"id": number}).encode() + b"\n")
            if protocol.answered(number):
                protocol.answer(number, command)
    except QmpError:
        pass


def test_a_monitor_is_no_qmp_server() -> None:
    with pytest.raises(QmpError, match=r"no QMP server: it says 'QEMU 7\.2\.22 monitor"):
        Protocol().receive(b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ")


def test_a_line_without_end_is_refused() -> None:
    protocol = Protocol()
    with pytest.raises(QmpError, match="without end"):
        for _ in range(qmp.MAX_ANSWER // (1 << 16) + 1):
            protocol.receive(b"x" * (1 << 16))


@pytest.mark.parametrize(
    ("filename", "socket"),
    [
        (
            "disconnected:websocket:127.0.0.1:4555,server=on",
            SocketInfo("websocket", "", "127.0.0.1", 4555, True, False, None),
        ),
        (
            "websocket:127.0.0.1:4555,server=on <-> 127.0.0.1:53236",
            SocketInfo("websocket", "", "127.0.0.1", 4555, True, True, "127.0.0.1:53236"),
        ),
        (
            "disconnected:websocket:::1:4555,server=on",
            SocketInfo("websocket", "", "::1", 4555, True, False, None),
        ),
        (
            "unix:/a,b:c,server=on",
            SocketInfo("unix", "/a,b:c", "", None, True, True, None),
        ),
        (
            "disconnected:unix:NAME,abstract=on,tight=on,server=on",
            SocketInfo("unix", "@NAME", "", None, True, False, None),
        ),
        ("tcp:h:1", SocketInfo("tcp", "", "h", 1, False, True, None)),
        ("disconnected:fd:,server=on", None),
        ("mux", None),
        ("pty:/dev/pts/1", None),
    ],
)
def test_what_a_filename_says(filename: str, socket: SocketInfo | None) -> None:
    assert CharInfo("c", filename, open=True).socket == socket


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/q", UnixAddress("/run/q")),
        ("unix:/run/q", UnixAddress("/run/q")),
        ("/run/q", UnixAddress("/run/q")),
        ("tcp://127.0.0.1:4444", TcpAddress("127.0.0.1", 4444)),
        ("tcp://[::1]:4444", TcpAddress("::1", 4444)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(address_text(address)) == address


@pytest.mark.parametrize("text", ["", "unix://", "q", "tcp://h", "tcp://h:0", "/" + "x" * 108])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UrlError, match="allowed: unix:///PATH or tcp://HOST:PORT"):
        parse_address(text)


# --- on a real QEMU


@pytest.fixture
def vm(tools: None, user: User, directory: Path) -> Iterator[Machine]:
    words = ["-name", "vm1", "-chardev", "socket,id=c,path=DIR/c,server=on,wait=off,websocket=on"]
    words += ["-device", "isa-serial,chardev=c", "-serial", "none", "-qmp-pretty"]
    words += ["unix:DIR/pretty,server=on,wait=off"]
    with machine(user, directory, *(w.replace("DIR", str(directory)) for w in words)) as started:
        yield started


def check(told: Told, directory: Path) -> None:
    assert told.name == "vm1"
    (row,) = [row for row in told.chardevs if row.label == "c"]
    assert row.open
    assert row.socket == SocketInfo("unix", f"{directory}/c", "", None, True, False, None)
    assert told.devices == {"c": "isa-serial"}


@pytest.mark.parametrize("name", ["qmp", "pretty"])
def test_blocking_client(vm: Machine, directory: Path, name: str) -> None:
    with QmpSession(UnixAddress(str(directory / name))) as session:
        check(session.converse(inquire()), directory)
        assert session.execute(STATUS) == "prelaunch"
        assert session.execute(VERSION).numbers >= (3, 1, 0)
        with pytest.raises(QmpRefusedError, match=r"^chardev-send-break: .*'nothing'"):
            session.execute(qmp.send_break("nothing"))
        session.execute(qmp.send_break("c"))


@pytest.mark.parametrize("name", ["qmp", "pretty"])
async def test_trio_client(vm: Machine, directory: Path, name: str) -> None:
    async with open_qmp(UnixAddress(str(directory / name))) as link:
        check(await link.converse(inquire()), directory)
        with pytest.raises(QmpRefusedError):
            await link.execute(qmp.send_break("nothing"))
        await link.execute(qmp.Command("stop", {}, lambda _: None))
        await link.execute(qmp.Command("cont", {}, lambda _: None))
        assert [event.name for event in link.events] == ["RESUME"]


async def test_over_tcp(tools: None, user: User, directory: Path) -> None:
    port = free_port()
    with machine(user, directory, "-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off"):
        with QmpSession(TcpAddress("127.0.0.1", port)) as session:
            assert session.execute(NAME) is None
        async with open_qmp(TcpAddress("127.0.0.1", port)) as link:
            assert await link.execute(NAME) is None


async def test_a_busy_socket_is_silent_and_costs_a_second_at_most(
    vm: Machine, directory: Path
) -> None:
    address = UnixAddress(str(directory / "qmp"))
    with QmpSession(address):
        with pytest.raises(QmpError, match="another client has this QMP socket"):
            QmpSession(address)
        with trio.fail_after(5), pytest.raises(QmpError, match="another client has this QMP"):
            async with open_qmp(address):
                raise AssertionError


async def test_who_is_not_there_is_said(directory: Path) -> None:
    address = UnixAddress(str(directory / "nobody"))
    with pytest.raises(QmpError, match=r"QMP at .*/nobody: No such file"):
        QmpSession(address)
    with pytest.raises(QmpError, match=r"QMP at .*/nobody: no such socket"):
        async with open_qmp(address):
            raise AssertionError


async def test_one_who_closes_is_gone(directory: Path) -> None:
    path = str(directory / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        async with trio.open_nursery() as nursery:

            async def hang_up() -> None:
                connection, _ = await trio.to_thread.run_sync(listener.accept)
                connection.close()

            nursery.start_soon(hang_up)
            with pytest.raises(QmpError, match=r"closed the QMP connection|lost"):
                async with open_qmp(UnixAddress(path)):
                    raise AssertionError


def test_a_locked_console_is_rescued(boot: Boot, user: User, directory: Path) -> None:
    """A client that closes while the guest writes locks QEMU; another port frees it."""
    vm = boot("flood")

    def locked() -> bool:
        with Peer(vm.port) as peer:
            peer.answer()
            peer.frame()
            # RST, with output unread: the harshest way to leave.
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return vm.connected()

    eventually(locked, what="a locked console")
    port = free_port()
    change = qmp.change_tcp("c", "127.0.0.1", port)
    vm.qmp(change.name, **change.arguments)
    with Peer(port) as peer:
        assert peer.answer()[0] == "http/1.1 101 switching protocols"
        assert peer.frame()
        peer.leave()


async def test_what_was_begun_is_ended_however_slow_each_answer(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A rescue that stopped halfway would leave QEMU listening elsewhere."""

    def talk() -> Talk[int]:
        for _ in range(4):
            yield NAME
        return 4

    async def serve(client: trio.SocketStream) -> None:
        numbers = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
        await client.send_all(json.dumps({"QMP": {"version": numbers}}).encode() + b"\r\n")
        async for line in client:
            await trio.sleep(0.9 * ANSWER_LIMIT)
            number = json.loads(line)["id"]
            await client.send_all(json.dumps({"id": number, "return": {}}).encode() + b"\r\n")

    path = tmp_path / "qmp"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
        async with open_qmp(UnixAddress(str(path))) as link:
            assert await link.converse(talk()) == 4
        nursery.cancel_scope.cancel()
