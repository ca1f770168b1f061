"""The connection to QEMU: made again for ever, left properly, its state named.

Against real virtual machines where QEMU's manners matter, against bare sockets where the
other end misbehaves.
"""

import base64
import hashlib
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.utils import accept_key

from bridge.upstream.flood import Flood
from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.peer import Peer
from tests.support.qemu import free_port
from tests.support.user import User
from tests.support.waiting import eventually


def echoes(client: Client, key: bytes) -> bool:
    """Does the guest behind ``client`` return a key yet?"""
    client.socket.settimeout(0.2)
    try:
        client.type(key)
        while client.socket.recv(4096).count(key) == 0:
            pass
    except TimeoutError:
        return False
    finally:
        client.socket.settimeout(30)
    return True


def run(user: User, directory: Path, url: str, *more: str) -> Bridge:
    return Bridge(user, directory / "run", f"vm={url}", *more)


def test_vm_dies_and_returns_under_an_attached_client(
    user: User, directory: Path, boot: Boot
) -> None:
    vm = boot("echofifo")
    with run(user, directory, vm.url) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        eventually(lambda: echoes(client, b"a"))
        seen = len(bridge.messages)
        vm.kill()
        seen = bridge.wait_message("vm: WAITING: .*VM is gone", after=seen)
        vm.restart()
        seen = bridge.wait_message("vm: ONLINE", after=seen)
        eventually(lambda: echoes(client, b"b"))
        assert [m for m in bridge.messages if "WAITING" in m].__len__() == 1


def test_vm_started_after_the_service(
    user: User, directory: Path, repetitions: int, figure: Callable[[str, list[float]], None]
) -> None:
    """One message for all the attempts."""
    port = free_port()
    seconds = []
    with run(user, directory, f"ws://127.0.0.1:{port}") as bridge:
        seen = bridge.wait_message("vm: WAITING: connection refused")
        for _ in range(repetitions):
            with Fake("echo", port):
                began = time.monotonic()
                seen = bridge.wait_message("vm: ONLINE", after=seen, limit=5)
                seconds.append(time.monotonic() - began)
            seen = bridge.wait_message("vm: WAITING: .*VM is gone", after=seen)
        assert len(bridge.messages) == 1 + 2 * repetitions
    figure("a VM on this machine listens, then ONLINE", seconds)


def test_unix_socket_upstream(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("echofifo", unix=True)
    with run(user, directory, vm.url) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        eventually(lambda: echoes(client, b"a"))
        vm.kill()  # leaves its socket behind
        seen = bridge.wait_message("vm: WAITING")
        vm.restart()
        bridge.wait_message("vm: ONLINE", after=seen, limit=5)
        eventually(lambda: echoes(client, b"b"))


def test_a_reset_or_paused_guest_stays_online(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("echofifo")
    with run(user, directory, vm.url) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        eventually(lambda: echoes(client, b"a"))
        vm.qmp("system_reset")
        eventually(lambda: echoes(client, b"b"))
        vm.qmp("stop")
        vm.qmp("cont")
        eventually(lambda: echoes(client, b"c"))
        assert len(bridge.messages) == 1


def test_busy_while_another_client_has_the_console(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("echofifo")
    holder = Peer(vm.port)
    holder.answer()
    with run(user, directory, vm.url) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: BUSY: another client has this console")
        holder.leave()
        bridge.wait_message("vm: ONLINE")
        eventually(lambda: echoes(client, b"a"))


def test_busy_on_a_unix_socket(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("deaf", unix=True)
    with socket.socket(socket.AF_UNIX) as holder:
        holder.connect(str(vm.path))
        with run(user, directory, vm.url) as bridge:
            bridge.wait_message("vm: BUSY: another client has this console")
            holder.close()
            bridge.wait_message("vm: ONLINE")


def test_a_locked_console_is_named_with_its_rescue(user: User, directory: Path, boot: Boot) -> None:
    """A client that died amid a frame has locked it: nobody has it, nobody is served."""
    vm = boot("deaf")
    with Peer(vm.port) as vandal:
        vandal.answer()
        vandal.socket.sendall(b"\x82")
    with run(user, directory, vm.url) as bridge:
        bridge.wait_message("vm: BUSY: nobody has this console, yet nobody is served.*rescue")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_leaving_a_flooding_guest_frees_the_console(
    user: User,
    directory: Path,
    boot: Boot,
    how: signal.Signals,
    repetitions: int,
    figure: Callable[[str, list[float]], None],
) -> None:
    vm = boot("flood")
    seconds = []
    for _ in range(repetitions):
        with run(user, directory, vm.url) as bridge:
            with Client(bridge.raw) as client:
                client.read_exactly(9)
            began = time.monotonic()
            assert bridge.stop(how) == 0
            seconds.append(time.monotonic() - began)
        eventually(lambda: not vm.connected(), limit=2)
    figure(f"end by {how.name} amid a flood of QEMU's", seconds)
    with Peer(vm.port) as peer:
        assert peer.answer()[0].startswith("http/1.1 101")
        peer.leave()


def test_leaving_with_unread_input_frees_the_console(
    user: User, directory: Path, boot: Boot
) -> None:
    """A key typed at a guest that does not read."""
    vm = boot("deaf")
    with run(user, directory, vm.url) as bridge:
        bridge.wait_message("vm: ONLINE")
        with Client(bridge.raw) as client:
            client.type(b"is anybody there?\r")
            client.socket.shutdown(socket.SHUT_WR)
        assert bridge.stop() == 0
    eventually(lambda: not vm.connected(), limit=2)


@contextmanager
def server(answer: bytes | None, *, then_close: bool = True) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers every request with ``answer``; gives its port and the requests."""
    requests: list[bytes] = []
    kept: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                kept.append(connection)
                requests.append(connection.recv(4096))
                if answer:
                    connection.sendall(answer)
                if then_close:
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield listener.getsockname()[1], requests
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in kept:
                connection.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            b"HTTP/1.1 404 Not Found\r\nServer: QEMU VNC\r\n\r\n",
            "FAILED: refused: .*404.*exactly /",
        ),
        (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n", "FAILED: refused: .*400"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "WAITING: answered: .*503"),
        (b"Debian GNU/Linux 12 \x1b[2Jvm ttyS0\r\n", r"FAILED: .*websocket=on.*"),
        (b"", "WAITING: the connection was closed without an answer"),
    ],
)
def test_what_is_behind_the_port_is_told(
    user: User, directory: Path, answer: bytes, message: str
) -> None:
    with server(answer) as (port, _), run(user, directory, f"ws://127.0.0.1:{port}") as bridge:
        bridge.wait_message(f"vm: {message}")
        assert not any("\x1b" in line for line in bridge.messages)


def test_a_server_that_asks_and_reads_no_answer_is_left(user: User, directory: Path) -> None:
    """Else its answers would be kept for it without end."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            key = re.search(rb"Sec-WebSocket-Key: (\S+)", connection.recv(4096))
            assert key is not None
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
                % accept_key(key[1].decode()).encode()
            )
            while True:
                connection.sendall((b"\x89\x7d" + bytes(125)) * 100)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with run(user, directory, f"ws://127.0.0.1:{listener.getsockname()[1]}") as bridge:
            bridge.wait_message("vm: WAITING: the server asks without end, and reads no answer")
        thread.join(10)


def test_a_silent_server_is_given_up_and_not_tried_again(user: User, directory: Path) -> None:
    """Until somebody attaches: each attempt types an HTTP request into a guest."""
    with (
        server(None, then_close=False) as (port, requests),
        run(user, directory, f"ws://127.0.0.1:{port}") as bridge,
    ):
        seen = bridge.wait_message("vm: FAILED: connected, but no answer in 5 s.*websocket=on")
        assert len(requests) == 1
        with Client(bridge.raw):
            eventually(lambda: len(requests) == 2)
        assert len(bridge.messages) == seen


GREETING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
)


def accept(listener: socket.socket) -> socket.socket:
    """Be the server of one connection, up to and with the handshake."""
    listener.settimeout(30)
    connection, _ = listener.accept()
    connection.settimeout(30)
    match = re.search(rb"Sec-WebSocket-Key: (\S+)", connection.recv(4096))
    assert match is not None
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    digest = base64.b64encode(hashlib.sha1(match[1] + guid).digest())
    connection.sendall(GREETING % digest)
    return connection


def test_garbage_after_the_handshake_ends_the_connection_not_the_attachments(
    user: User, directory: Path
) -> None:
    """Reserved bits, then a server that works: the client stays and sees its output."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        run(user, directory, "ws://127.0.0.1:%d" % listener.getsockname()[1]) as bridge,
        Client(bridge.raw) as client,
    ):
        with accept(listener) as first:
            bridge.wait_attached()
            first.sendall(b"\x82\x02ok" + b"\xf2\x01x")
            client.read_until(b"ok")
            bridge.wait_message("vm: WAITING: the server sent what is not accepted")
        with accept(listener) as second:
            second.sendall(b"\x82\x05again")
            client.read_until(b"again")
            # A reset connection is no different.
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with accept(listener) as third:
            third.sendall(b"\x82\x05third")
            client.read_until(b"third")


def test_a_close_frame_amid_a_paste_ends_only_the_connection(user: User, directory: Path) -> None:
    """Its last payload is an echo, for which more would be sent, into a closed websocket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        run(user, directory, "ws://127.0.0.1:%d" % listener.getsockname()[1]) as bridge,
        Client(bridge.raw) as client,
    ):
        with accept(listener) as first:
            bridge.wait_message("vm: ONLINE")
            client.type(b"x" * 4000)
            first.recv(100)
            first.sendall(b"\x82\x01x" + b"\x88\x02\x03\xe8")
            client.read_until(b"x")
            seen = bridge.wait_message("vm: WAITING: closed by the server: 1000")
        with accept(listener) as second:
            bridge.wait_message("vm: ONLINE", after=seen)
            second.sendall(b"\x82\x05again")
            client.read_until(b"again")


def test_a_frame_larger_than_the_scrollback_reaches_a_healthy_reader_whole(
    user: User, directory: Path
) -> None:
    config = directory / "config.toml"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "ws://127.0.0.1:%d" % listener.getsockname()[1]
        config.write_text(f'[consoles.vm]\nurl = "{url}"\nscrollback = 4096\n')
        config.chmod(0o644)
        payload = bytes(range(256)) * 240
        with (
            Bridge(user, directory / "run", "--config", str(config)) as bridge,
            Client(bridge.raw) as client,
            accept(listener) as server,
        ):
            bridge.wait_message("vm: ONLINE")
            client.type(b"?")
            server.recv(100)  # the client is attached
            server.sendall(b"\x82\x7e" + len(payload).to_bytes(2, "big") + payload)
            assert client.read_exactly(len(payload)) == payload


def test_a_frame_that_was_begun_is_finished_before_leaving(user: User, directory: Path) -> None:
    """To end within a frame locks QEMU's console for good."""
    config = directory / "config.toml"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        url = "ws://127.0.0.1:%d" % listener.getsockname()[1]
        config.write_text(f'[consoles.vm]\nurl = "{url}"\ninput = "direct"\n')
        config.chmod(0o644)
        with Bridge(user, directory / "run", "--config", str(config)) as bridge:
            with Client(bridge.raw) as client, accept(listener) as server:
                bridge.wait_message("vm: ONLINE")
                client.socket.settimeout(1)
                try:  # until nothing moves
                    while True:
                        client.socket.send(b"y" * 4096)
                except TimeoutError:
                    pass
                bridge.process.terminate()
                stream = bytearray()
                while data := server.recv(1 << 16):
                    stream += data
    at = 0
    while at < len(stream):
        size = stream[at + 1] & 0x7F
        header = 6 if size < 126 else 8
        at += header + (size if size < 126 else int.from_bytes(stream[at + 2 : at + 4], "big"))
    assert at == len(stream) > 4096


def test_a_second_signal_does_not_cut_the_leaving_short(
    user: User, directory: Path, boot: Boot, repetitions: int
) -> None:
    """A terminal that closes may say HUP twice."""
    vm = boot("flood")
    for _ in range(repetitions):
        with run(user, directory, vm.url) as bridge:
            bridge.wait_message("vm: ONLINE")
            for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                bridge.process.send_signal(number)
            assert bridge.process.wait(10) == 0
            assert not bridge.link.is_symlink()
        eventually(lambda: not vm.connected(), limit=2)


def test_input_without_a_guest_is_not_delivered_to_the_next_boot(
    user: User, directory: Path
) -> None:
    with Fake("echo") as vm, run(user, directory, vm.url) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        vm.kill()
        seen = bridge.wait_message("vm: WAITING")
        client.type(b"rm -rf /\r")
        with Client(bridge.raw) as later:  # served after the one before it
            later.type(b"x")
            vm.restart()
            bridge.wait_message("vm: ONLINE", after=seen)
            client.type(b"fresh")
            assert client.read_until(b"fresh") == b"fresh"


def test_a_vm_of_another_kind_on_the_same_port(user: User, directory: Path) -> None:
    """FAILED ends as soon as somebody else listens."""
    with server(b"login: ") as (port, _):
        bridge = run(user, directory, f"ws://127.0.0.1:{port}")
        bridge.wait_message("vm: FAILED")
    with bridge:
        with Fake("echo", port):
            bridge.wait_message("vm: ONLINE", limit=5)


@pytest.mark.parametrize("options", [{}, {"unix": True}, {"tls": True}], ids=["tcp", "unix", "tls"])
def test_a_chardev_without_websocket_loses_nothing_of_a_paste(
    user: User, directory: Path, boot: Boot, options: dict[str, Any]
) -> None:
    """`auto` holds nothing back here: QEMU takes no more than the guest reads."""
    config = directory / "config.toml"
    more = ""
    if "tls" in options:
        authority = Authority(user, directory / "authority")
        options = {"tls": authority.directory}
        more = f'ca = "{authority.ca}"'
    vm = boot("echofifo", websocket=False, **options)
    config.write_text(f'[consoles.vm]\nurl = "{vm.url}"\n{more}\n')
    config.chmod(0o644)
    data = random.Random(2).randbytes(65536)
    with (
        Bridge(user, directory / "run", "--config", str(config)) as bridge,
        Client(bridge.raw) as client,
    ):
        bridge.wait_message("vm: ONLINE")
        client.reach_echo()
        threading.Thread(target=client.type, args=(data,)).start()
        assert client.read_exactly(len(data)) == data
        vm.kill()
        seen = bridge.wait_message("vm: WAITING: .*VM is gone")
        vm.restart()
        bridge.wait_message("vm: ONLINE", after=seen, limit=10)
        client.reach_echo()
    eventually(lambda: not vm.connected(), limit=2)


@pytest.mark.parametrize("unix", [False, True])
def test_busy_at_a_chardev_without_websocket(
    user: User, directory: Path, boot: Boot, unix: bool
) -> None:
    """Nobody greets; the kernel tells whether we were accepted."""
    vm = boot("deaf", websocket=False, unix=unix)
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as holder:
        holder.connect(str(vm.path) if unix else ("127.0.0.1", vm.port))
        with run(user, directory, vm.url) as bridge:
            bridge.wait_message("vm: BUSY: another client has this console")
            holder.close()
            bridge.wait_message("vm: ONLINE")
            assert bridge.stop() == 0
    eventually(lambda: not vm.connected(), limit=2)


def test_leaving_a_flooding_chardev_without_websocket(
    user: User, directory: Path, boot: Boot
) -> None:
    vm = boot("flood", websocket=False)
    with run(user, directory, vm.url) as bridge:
        with Client(bridge.raw) as client:
            client.read_exactly(9)
        assert bridge.stop() == 0
    eventually(lambda: not vm.connected(), limit=2)


def test_a_paste_to_a_paused_guest_is_kept_and_not_waited_for_at_the_end(
    user: User, directory: Path, boot: Boot
) -> None:
    """The server pushes back: what it has not read is neither lost nor in the way."""
    vm = boot("echofifo", websocket=False)
    data = random.Random(3).randbytes(200_000)
    with run(user, directory, vm.url) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        client.reach_echo()
        vm.qmp("stop")
        client.type(data[:50_000])
        vm.qmp("cont")
        assert client.read_exactly(50_000) == data[:50_000]
        vm.qmp("stop")
        client.type(data[50_000:])
        assert bridge.stop() == 0
        assert not any("locked" in message for message in bridge.messages)


def test_a_flood_is_read_once_a_millisecond() -> None:
    flood = Flood()
    pauses = [flood.pause(20, 0, 0.0001 * n) for n in range(20)]
    assert pauses[: Flood.STREAK] == [0.0] * Flood.STREAK
    assert pauses[-1] == Flood.PAUSE


def test_echoes_and_first_bytes_after_quiet_are_never_delayed() -> None:
    flood = Flood()
    assert not any(flood.pause(1, n, 0.0001 * n) for n in range(100))
    assert not any(flood.pause(1, 100, 1 + 0.01 * n) for n in range(100))
