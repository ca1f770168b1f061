"""The websocket endpoint's doors: who is let in, by what token, and what others are told."""

import re
import socket
import stat
from pathlib import Path

import pytest
import trio
from trio_websocket import open_websocket_url

from bridge.endpoints.wsserver import MAX_HEAD
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.user import User
from tests.support.websocket import UPGRADE, Service, head

# Nobody else.


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/", {}, 200),
        ("/vm1", {}, 426),
        ("/none", UPGRADE, 404),
        ("/vm1/", UPGRADE, 404),
        ("/../vm1", UPGRADE, 404),
        ("/vm1", UPGRADE | {"Origin": "http://evil.example"}, 403),
        ("/none", UPGRADE | {"Origin": "http://evil.example"}, 403),
    ],
)
def test_what_is_no_websocket_is_answered(
    echo: Service, target: str, headers: dict[str, str], status: int
) -> None:
    answer = echo.answer(target, headers)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    for secret in (b"vm1", echo.token.read_bytes().strip()):
        assert secret not in answer


async def test_a_page_needs_the_token(echo: Service) -> None:
    page = [(b"Origin", b"https://terminal.example")]
    token = echo.token.read_text().strip()
    assert stat.S_IMODE(echo.token.stat().st_mode) == 0o600
    refused = UPGRADE | {"Origin": "https://terminal.example"}
    assert [echo.status(f"/vm1?token={t}", refused) for t in ("", f"{token}x")] == [403, 403]
    echo.bridge.wait_message("refused a web page of the origin 'https://terminal.example'")
    with trio.fail_after(30):
        async with open_websocket_url(f"{echo.url()}?token={token}", extra_headers=page) as client:
            await client.send_message(b"1")
            assert await client.get_message() == b"1"
        async with open_websocket_url(
            echo.url(), subprotocols=["binary", f"token.{token}"], extra_headers=page
        ) as client:
            assert client.subprotocol == "binary"
            await client.send_message(b"2")
            assert await client.get_message() == b"2"
    assert not [line for line in echo.bridge.messages if token in line]


def test_a_rebound_name_is_refused(echo: Service) -> None:
    with Client(("127.0.0.1", echo.port)) as client:
        client.type(head(headers=UPGRADE | {"Host": f"evil.example:{echo.port}"}))
        assert client.read_to_end().startswith(b"HTTP/1.1 403 ")
    echo.bridge.wait_message("refused a request for the host 'evil.example")


def test_another_user_is_refused_before_he_is_heard(echo: Service, intruder: User) -> None:
    code = (
        "import socket; s = socket.create_connection(('127.0.0.1', %d)); s.settimeout(20)\n"
        "try:\n s.sendall(%r); print(s.recv(100))\n"
        "except ConnectionError: print(b'')" % (echo.port, head())
    )
    assert intruder.run(["python", "-c", code]).stdout == "b''\n"
    echo.bridge.wait_message(f"refused a client of uid {intruder.uid}")


def test_a_head_without_end(echo: Service) -> None:
    with Client(("127.0.0.1", echo.port)) as client:
        client.type(b"GET /" + b"a" * MAX_HEAD)
        assert client.read_to_end().startswith(b"HTTP/1.1 431 ")
    with Client(("127.0.0.1", echo.port)) as client:
        client.type(b"GET / HTTP/1.1\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read_to_end().startswith(b"HTTP/1.1 400 ")


# The token of one's own; the port, changed.


def test_a_token_is_kept_or_chosen(user: User, directory: Path) -> None:
    file = directory / "own"
    with Fake("echo") as vm:
        with Service(user, directory, vm.url) as service:
            made = service.token.read_text()
        with Service(user, directory, vm.url) as service:
            assert service.token.read_text() == made
            assert re.fullmatch(r"[A-Za-z0-9_-]{43}\n", made)
            file.write_text("chosen-by-its-owner\n")
            user.own(file)
            file.chmod(0o644)
            service.configure(f'websocket = "auto"\nwebsocket_token = {{ file = "{file}" }}')
            assert service.reload().endswith("1 failed")
            file.chmod(0o600)
            assert service.reload() == "reloaded: 1 changed of [service]"
            page = UPGRADE | {"Origin": "null"}
            for token, status in ((made.strip(), 403), ("chosen-by-its-owner", 101)):
                assert service.status(f"/vm1?token={token}", page) == status


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("long-enough-to-be-one", 0o640, "others may read it (mode 0640); chmod 600 it"),
        ("short", 0o600, "not a token; allowed: one line of 16 to 256 of"),
        ("two words that are long", 0o600, "not a token"),
        (None, 0, "No such file or directory"),
    ],
)
def test_a_token_that_will_not_do(
    user: User, directory: Path, text: str | None, mode: int, message: str
) -> None:
    file, config = directory / "own", directory / "config.toml"
    if text is not None:
        file.write_text(text)
        user.own(file)
        file.chmod(mode)
    config.write_text(f'[service]\nwebsocket = "auto"\nwebsocket_token = {{ file = "{file}" }}\n')
    config.chmod(0o644)
    done = user.run(["ttybridge", "run", "--config", config, "--runtime-dir", directory / "run"])
    assert done.returncode == 1
    assert f"websocket token {file}: {message}" in done.stderr
