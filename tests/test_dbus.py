"""D-Bus messages: written and read back, in pieces, and never trusted."""

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.systemd import dbus
from bridge.systemd.dbus import Kind, MalformedError, Message
from tests.support.dbus import reply


def call(*arguments: str | int) -> bytes:
    return dbus.method_call(7, "/org/x", "org.x.Manager", "Ask", *arguments)


def test_a_call_is_what_the_specification_says() -> None:
    assert dbus.method_call(1, "/a", "i.f", "M", 5) == (
        b"l\1\0\1" + b"\4\0\0\0" + b"\1\0\0\0" + b"\x37\0\0\0"
        b"\1\1o\0" + b"\2\0\0\0/a\0" + b"\0\0\0\0\0"
        b"\2\1s\0" + b"\3\0\0\0i.f\0" + b"\0\0\0\0"
        b"\3\1s\0" + b"\1\0\0\0M\0" + b"\0\0\0\0\0\0"
        b"\x08\1g\0" + b"\1u\0" + b"\0"
        b"\5\0\0\0"
    )


@given(st.lists(st.text(max_size=20) | st.integers(0, 2**32 - 1), max_size=4), st.data())
def test_what_is_written_can_be_read_whole_and_in_pieces(
    arguments: list[str | int], data: st.DataObject
) -> None:
    message = call(*arguments)
    assert dbus.parse(message + b"more") == (
        Message(Kind.CALL, None, tuple(arguments)),
        len(message),
    )
    cut = data.draw(st.integers(0, len(message) - 1))
    assert dbus.parse(message[:cut]) is None


@pytest.mark.parametrize("order", ["<", ">"])
def test_answers_of_either_byte_order(order: str) -> None:
    """A variant that holds (uo), as the property Job has it."""
    path = b"/org/freedesktop/systemd1/job/150"
    body = b"\4(uo)\0\0\0" + struct.pack(f"{order}II", 150, len(path)) + path + b"\0"
    parsed = dbus.parse(reply(2, 3, "v", body, order))
    assert parsed is not None
    assert parsed[0] == Message(Kind.RETURN, 3, ((150, path.decode()),))


def test_arrays_and_structures() -> None:
    # The array's length does not count the padding before its first element.
    body = struct.pack("<I4x II2s6x II2s", 26, 1, 1, b"a\0", 2, 1, b"b\0")
    parsed = dbus.parse(reply(2, 3, "a(us)", body))
    assert parsed is not None
    assert parsed[0].body == ([(1, "a"), (2, "b")],)


@given(st.binary(max_size=200))
def test_any_bytes_after_a_good_start_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b"l\2\1\1", reply(2, 3, "v", b"")[:40]):
        with suppress(MalformedError):
            dbus.parse(start + data)


@given(st.text("aybnqiuxtdsogv(){}", max_size=40), st.binary(max_size=64))
def test_any_signature_is_read_or_refused(signature: str, body: bytes) -> None:
    with suppress(MalformedError):
        dbus.parse(reply(2, 3, signature, body))


def test_a_huge_message_is_refused_from_its_head() -> None:
    with pytest.raises(MalformedError):
        dbus.parse(b"l\2\1\1" + struct.pack("<III", dbus.MAX_MESSAGE, 1, 8))


def test_who_we_are_is_said_in_hexadecimal_digits() -> None:
    assert dbus.auth_external(1000) == b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n"
