"""The small pure modules: guard, printable, guest."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.base.printable import printable
from bridge.endpoints.guard import looks_like_telnet, looks_like_web
from bridge.service.guest import BANNER, PROMPT, Shell


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /a?b HTTP/1.0\r\n",
        b"CONNECT h:1 HTTP/1.1",
        b"GET /" + b"a" * 4091,  # its end is in the next read
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_web_shapes_are_known(first: bytes) -> None:
    assert looks_like_web(first)


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"G",
        b"GET",
        b"GET / \r",
        b"get / HTTP/1.1",
        b"ls -l\r",
        b"PUT " + b"a" * 600,
        b"\x16",
        b"\x16\x03",
        b"\xff\xfb",
    ],
)
def test_what_people_and_scripts_type_is_not_web(first: bytes) -> None:
    assert not looks_like_web(first)


@pytest.mark.parametrize(
    "first",
    [
        # PuTTY: WILL NAWS, TSPEED, TTYPE, NEWENV, DO ECHO, WILL SGA, DO SGA
        b"\xff\xfb\x1f\xff\xfb\x20\xff\xfb\x18\xff\xfb\x27\xff\xfd\x01\xff\xfb\x03\xff\xfd\x03",
        b"\xff\xf4\xff\xfd\x06",  # inetutils' ^C: IP, DO TIMING-MARK
        b"\xff\xfa\x1f",
        b"\xff\xf3",
    ],
)
def test_telnet_on_a_raw_port_is_known(first: bytes) -> None:
    assert looks_like_telnet(first)


@pytest.mark.parametrize("first", [b"", b"\xff", b"\xff\xff", b"\xff\x00", b"a\xff\xfb\x01", b"\r"])
def test_what_is_no_telnet_command_is_not_telnet(first: bytes) -> None:
    assert not looks_like_telnet(first)


@given(st.one_of(st.text(), st.binary()))
def test_nothing_printable_moves_a_cursor(text: str | bytes) -> None:
    assert printable(text).isprintable()


def test_printable_keeps_what_is_plain_and_cuts_what_is_long() -> None:
    assert printable("grün 100 %") == "grün 100 %"
    assert printable(b"\x1b[2J\xff") == r"\x1b[2J\xff"
    assert printable("\u202e") == r"\u202e"
    assert printable("x" * 1000) == "x" * 200 + "..."


def say(shell: Shell, text: bytes) -> bytes:
    return b"".join(shell.receive(text))


def test_the_guest_greets_echoes_and_prompts() -> None:
    shell = Shell()
    assert b"".join(shell.boot()) == BANNER + PROMPT
    assert say(shell, b"echo hi\r") == b"echo hi\r\nhi\r\n" + PROMPT
    assert say(shell, b"\r\n\n") == (b"\r\n" + PROMPT) * 2
    assert b"not a command" in say(shell, b"nonsense\r")


def test_the_guest_erases_and_interrupts() -> None:
    shell = Shell()
    assert say(shell, b"echo bax\x7fd\r") == b"echo bax\b \bd\r\nbad\r\n" + PROMPT
    assert say(shell, b"\x7f") == b""
    assert say(shell, b"abc\x03") == b"abc^C\r\n" + PROMPT
    assert say(shell, b"\x01\r") == b"^A\r\n" + PROMPT


def test_the_guests_commands() -> None:
    shell = Shell(now=lambda: dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC))
    assert b"Fri Jan 02 03:04:05 2026\r\n" in say(shell, b"date\r")
    assert b"00000001\r\n00000002\r\ndemo" in say(shell, b"flood 2\r")
    for wrong in (b"flood x\r", b"flood 999999999\r", b"flood\r"):
        assert b"wants a number" in say(shell, wrong)
    assert bytes(range(256)) in say(shell, b"bytes\r")
    listed = say(shell, b"help\r")
    for name in (b"help", b"date", b"echo", b"flood", b"bytes"):
        assert name in listed


@given(st.binary(max_size=300))
def test_the_guest_takes_any_bytes_in_any_pieces(data: bytes) -> None:
    whole, pieces = Shell(now=lambda: dt.datetime.min), Shell(now=lambda: dt.datetime.min)
    assert say(whole, data) == b"".join(say(pieces, bytes([byte])) for byte in data)
