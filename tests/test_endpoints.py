"""Raw ports and Unix sockets: eight bits, half-closing, and nobody else."""

import socket
from pathlib import Path

import pytest

from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.user import User
from tests.support.waiting import eventually

PROMPT = b"demo$ "


def test_output_passes_as_it_is(bridge: Bridge) -> None:
    with Client(bridge.raw) as client:
        client.type(b"bytes\r")
        client.read_until(b"bytes\r\n")
        assert client.read_exactly(258) == bytes(range(256)) + b"\r\n"


def test_the_end_of_input_ends_input_only(user: User, bridge: Bridge) -> None:
    """`printf ... | nc -N`: what was typed is typed, and its answer still comes."""
    with Client(bridge.raw) as client:
        client.type(b"echo still listening\r")
        client.socket.shutdown(socket.SHUT_WR)
        client.read_until(b"\r\nstill listening\r\n")


def test_nc_gets_its_answer(user: User, bridge: Bridge, tools: None) -> None:
    host, port = bridge.raw
    line = f"printf 'echo for nc\\r' | timeout 20 nc -N {host} {port} | grep -m 1 '^for nc'"
    assert user.run(["sh", "-c", line]).stdout == "for nc\r\n"


def test_a_closed_client_is_forgotten(bridge: Bridge) -> None:
    """Also one that nothing is written to any more."""
    descriptors = Path(f"/proc/{bridge.process.pid}/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        with Client(bridge.raw) as client:
            client.type(b"\r")
            client.read_until(PROMPT)
    with Client(bridge.raw) as client:  # served after those before it
        client.type(b"\r")
        client.read_until(PROMPT)
        assert len(list(descriptors.iterdir())) <= before + 2


def test_one_that_was_shut_down_and_then_closed_is_forgotten(bridge: Bridge) -> None:
    """As telnet ends; the close alone sends nothing."""
    with Client(bridge.raw) as client:
        bridge.wait_attached()
        client.socket.shutdown(socket.SHUT_RDWR)
        assert bridge.status()["attachments"]
    eventually(lambda: not bridge.status()["attachments"], limit=10)


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: localhost:4001\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 7\r\n\r\nreboot\r",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_web_page_is_sent_away_and_nothing_is_typed(bridge: Bridge, first: bytes) -> None:
    with Client(bridge.raw) as witness:
        with Client(bridge.raw) as page:
            page.type(first)
            assert page.read_to_end() == b""
        bridge.wait_message("closed a connection that began like a web browser's")
        witness.type(b"echo nothing before\r")
        assert witness.read_until(PROMPT) == b"echo nothing before\r\nnothing before\r\n" + PROMPT


def test_a_person_may_type_what_a_web_page_says(bridge: Bridge) -> None:
    """Key by key, as people do: the first read judges, nothing is held back."""
    with Client(bridge.raw) as client:
        for key in b"GET / HTTP/1.1":
            client.type(bytes([key]))
            client.read_until(bytes([key]))
        client.type(b"\r")
        client.read_until(b"GET: not a command")


def test_another_user_is_refused(bridge: Bridge, intruder: User) -> None:
    host, port = bridge.raw
    code = (
        "import socket; s = socket.create_connection(('%s', %d)); s.settimeout(20)\n"
        "try:\n s.sendall(b'reboot\\r'); print(s.recv(100))\n"
        "except ConnectionError: print(b'')" % (host, port)
    )
    with Client(bridge.raw) as witness:
        assert intruder.run(["python", "-c", code]).stdout == "b''\n"
        bridge.wait_message(f"refused a client of uid {intruder.uid}")
        witness.type(b"echo nothing before\r")
        assert witness.read_until(PROMPT) == b"echo nothing before\r\nnothing before\r\n" + PROMPT


def test_one_that_has_closed_before_it_was_looked_at_is_refused(bridge: Bridge) -> None:
    """Some kernels answer that its uid is 0, as if it were root's."""
    bridge.process.send_signal(19)  # SIGSTOP: so that the client is surely gone
    with Client(bridge.raw) as client:
        client.type(b"echo from a ghost\r")
    bridge.process.send_signal(18)  # SIGCONT
    bridge.wait_message("had left before it could be asked")
    with Client(bridge.raw) as witness:
        witness.type(b"echo nothing before\r")
        assert witness.read_until(PROMPT) == b"echo nothing before\r\nnothing before\r\n" + PROMPT


def test_unix_socket_is_private_and_works(user: User, directory: Path, bridge: Bridge) -> None:
    config = directory / "config.toml"
    config.write_text(
        f'[consoles.vm]\nurl = "{bridge.places[0]["url"]}"\nunix = true\nraw = false\n'
    )
    config.chmod(0o644)
    bridge.stop()
    with Bridge(user, directory / "second", command="demo") as demo:
        config.write_text(
            config.read_text().replace(bridge.places[0]["url"], demo.places[0]["url"])
        )
        with Bridge(user, directory / "run", "--config", str(config)) as busy:
            place = busy.places[0]
            assert place["raw"] is None
            path = Path(place["unix"])
            assert path.stat().st_mode & 0o777 == 0o600
            busy.wait_message("vm: BUSY")
            demo.stop()
            with Client(str(path)):
                pass


def test_sixteen_clients_of_whom_one_never_reads(bridge: Bridge) -> None:
    expected = b"".join(b"%08d\r\n" % n for n in range(1, 4001))
    clients = [Client(bridge.raw) for _ in range(16)]
    clients[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for client in clients:
        client.sync()  # attached
    clients[1].type(b"flood 4000\r")
    for client in clients[1:]:
        client.read_until(b"flood 4000\r\n")
        assert client.read_exactly(len(expected)) == expected
    for client in clients:
        client.socket.close()
