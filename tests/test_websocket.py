"""The wire: whatever comes, however cut, means what ClientProtocol alone says it means."""

import base64
import hashlib
import itertools
import logging
import re
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from bridge.settings.url import UpstreamUrl
from bridge.upstream import websocket
from bridge.upstream.protocol import End, Retry
from bridge.upstream.websocket import MAX_FRAME, Wire, peel

URL = UpstreamUrl.parse("ws://127.0.0.1:4555")


def answer(request: bytes, extra: bytes = b"") -> bytes:
    key = re.search(rb"Sec-WebSocket-Key: (\S+)\r\n", request)
    assert key is not None
    digest = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nServer: QEMU VNC\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
        % base64.b64encode(digest)
    ) + extra


def open_wire() -> Wire:
    wire = Wire(URL)
    wire.receive(answer(wire.hello()))
    assert wire.open
    return wire


def frame(payload: bytes, opcode: int = 2, *, fin: bool = True, mask: bool = False) -> bytes:
    first = (0x80 if fin else 0) | opcode
    bit = 0x80 if mask else 0
    if len(payload) < 126:
        head = struct.pack("!BB", first, bit | len(payload))
    elif len(payload) < 65536:
        head = struct.pack("!BBH", first, bit | 126, len(payload))
    else:
        head = struct.pack("!BBQ", first, bit | 127, len(payload))
    return head + (b"\0\0\0\0" if mask else b"") + payload


PLAIN = st.builds(frame, st.binary(max_size=200))
RUNS = st.builds(
    lambda payloads: b"".join(map(frame, payloads)),
    st.integers(0, 20).flatmap(
        lambda size: st.lists(st.binary(min_size=size, max_size=size), max_size=100)
    ),
)
LONG = st.builds(lambda size: frame(bytes(i % 251 for i in range(size))), st.integers(120, 70_000))
# Both sides of each border between the forms of a length (RFC 6455, 5.2).
EDGES = st.builds(
    lambda size, count: frame(bytes(i % 251 for i in range(size))) * count,
    st.sampled_from([0, 1, 125, 126, 127, 255, 256, 65535, 65536]),
    st.integers(1, 3),
)
# A length in a longer form than it needs, which QEMU takes and others may send.
OVERLONG = st.builds(
    lambda payload, wide: (
        struct.pack("!BBQ" if wide else "!BBH", 0x82, 127 if wide else 126, len(payload)) + payload
    ),
    st.binary(max_size=200),
    st.booleans(),
)
# One message in fragments, with control frames in between (RFC 6455, 5.4).
FRAGMENTS = st.builds(
    lambda parts, ping: b"".join(
        frame(part, 0 if i else 2, fin=i == len(parts) - 1)
        + (frame(ping, 9) if i < len(parts) - 1 else b"")
        for i, part in enumerate(parts)
    ),
    st.lists(st.binary(max_size=40), min_size=2, max_size=6),
    st.binary(max_size=10),
)
CONTROL = st.builds(frame, st.binary(max_size=130), st.sampled_from([9, 10]))
CLOSE = st.builds(
    frame, st.sampled_from([b"", b"\x03\xe8", b"\x03\xe8bye", b"\x03", b"\0\0"]), st.just(8)
)
ODD = st.builds(
    frame, st.binary(max_size=20), st.integers(0, 15), fin=st.booleans(), mask=st.booleans()
)
RAW = st.binary(max_size=12)
DATA = [PLAIN, RUNS, RUNS, LONG, EDGES, OVERLONG, FRAGMENTS]
STREAMS = st.lists(st.one_of(*DATA, CONTROL, CLOSE, ODD, RAW), max_size=8).map(b"".join)
# Without violations, so that what follows is reached.
LAWFUL = st.lists(st.one_of(*DATA, CONTROL), max_size=8).map(b"".join)
SMALL = [PLAIN, OVERLONG, FRAGMENTS, CONTROL]


def reference(stream: bytes) -> tuple[bytes, bytes, bool]:
    """(payload, reply, ended?) by ClientProtocol alone."""
    protocol = ClientProtocol(
        parse_uri("ws://127.0.0.1:4555"), state=OPEN, max_size=(None, MAX_FRAME)
    )
    protocol.receive_data(stream)
    payload, closed = b"", False
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode in {Opcode.BINARY, Opcode.TEXT, Opcode.CONT}:
            payload += bytes(event.data)
        closed = closed or event.opcode is Opcode.CLOSE
    reply = unmasked(b"".join(protocol.data_to_send()))
    return payload, reply, closed or protocol.parser_exc is not None


def unmasked(stream: bytes) -> bytes:
    """Frames sent by a client, with the random masks taken off."""
    clear, at = b"", 0
    while at < len(stream):
        length = stream[at + 1] & 0x7F
        assert length < 126
        mask, body = stream[at + 2 : at + 6], stream[at + 6 : at + 6 + length]
        plain = bytes(b ^ mask[i % 4] for i, b in enumerate(body))
        clear += stream[at : at + 2] + plain
        at += 6 + length
    return clear


def decode(stream: bytes, cuts: list[int]) -> tuple[bytes, bytes, bool]:
    wire = open_wire()
    payload = reply = b""
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, stop in itertools.pairwise(edges):
        if wire.end is None:
            more, back = wire.receive(stream[start:stop])
            payload, reply = payload + more, reply + unmasked(back)
    return payload, reply, wire.end is not None


@given(st.one_of(STREAMS, LAWFUL), st.lists(st.integers(0, 1 << 20), max_size=6))
def test_any_stream_cut_anywhere_means_the_same(stream: bytes, cuts: list[int]) -> None:
    assert decode(stream, cuts) == reference(stream)


@given(st.lists(st.one_of(*SMALL, CLOSE, ODD, RAW), max_size=6).map(b"".join))
def test_any_stream_byte_by_byte_means_the_same(stream: bytes) -> None:
    assert decode(stream, list(range(len(stream)))) == reference(stream)


def test_a_run_of_one_byte_frames_costs_no_call_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU's UART: 20 000 frames, and ClientProtocol sees none of them."""
    text = bytes(range(256)) * 80
    wire = open_wire()
    calls = 0
    original = ClientProtocol.receive_data

    def count(self: ClientProtocol, data: bytes) -> None:
        nonlocal calls
        calls += 1
        original(self, data)

    monkeypatch.setattr(ClientProtocol, "receive_data", count)
    assert wire.receive(b"".join(frame(bytes([byte])) for byte in text)) == (text, b"")
    assert calls == 0


def test_alternating_lengths_do_not_cost_a_look_at_everything() -> None:
    """The work per frame must not grow with what lies behind it: counted, not timed."""

    class Counting(bytes):
        looked = 0

        def __getitem__(self, key: Any) -> Any:
            found = super().__getitem__(key)
            if isinstance(found, bytes):
                Counting.looked += len(found)
            return found

    buffer = Counting((frame(b"a") + frame(b"bc")) * 5000)
    payload: list[bytes] = []
    assert peel(buffer, 0, payload) == (len(buffer), 10_000)
    assert b"".join(payload) == b"abc" * 5000
    assert Counting.looked < 40 * 10_000


def test_a_frame_in_single_bytes_is_looked_at_only_when_whole() -> None:
    whole = frame(b"x" * 60_000)
    wire = open_wire()
    looks = 0
    original = websocket.peel

    def count(buffer: bytes, at: int, payload: list[bytes]) -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return original(buffer, at, payload)

    websocket.peel = count
    try:
        got = b"".join(wire.receive(whole[i : i + 1])[0] for i in range(len(whole)))
    finally:
        websocket.peel = original
    assert got == b"x" * 60_000
    assert looks < 10


def test_a_run_in_single_bytes_costs_the_same_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much has come before: counted in bytes that are looked through."""
    looked: list[int] = []
    original = websocket.peel

    def count(buffer: bytes, at: int, payload: list[bytes]) -> tuple[int, int]:
        looked.append(len(buffer) - at)
        return original(buffer, at, payload)

    monkeypatch.setattr(websocket, "peel", count)
    stream = frame(b"a") * 5000 + frame(b"bcd") * 5000
    wire = open_wire()
    got = b"".join(wire.receive(stream[i : i + 1])[0] for i in range(len(stream)))
    assert got == b"a" * 5000 + b"bcd" * 5000
    assert sum(looked) <= 3 * len(stream)


@pytest.mark.parametrize("step", [1, 1000, 64 * 1024])
def test_the_largest_frame_costs_its_own_size_in_memory(step: int) -> None:
    size = MAX_FRAME if step > 1 else MAX_FRAME // 8
    stream = frame(b"x" * size)
    wire = open_wire()
    got = b""
    tracemalloc.start()
    try:
        for at in range(0, len(stream), step):
            payload, _ = wire.receive(stream[at : at + step])
            got = got or payload
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert got == b"x" * size
    assert peak < 5 * size


@pytest.mark.parametrize("size", [MAX_FRAME + 1, 16 << 20, (1 << 63) - 1])
@pytest.mark.parametrize("step", [1, 10])
def test_a_frame_beyond_the_limit_is_refused_from_its_header(size: int, step: int) -> None:
    """So its size in memory is never asked for; and the reason says what the limit is."""
    wire = open_wire()
    header = struct.pack("!BBQ", 0x82, 127, size)
    for at in range(0, len(header), step):
        wire.receive(header[at : at + step])
    assert wire.end is not None
    assert wire.end.reason == (
        f"the server sent what is not accepted: PayloadTooBig:"
        f" frame with {size} bytes exceeds limit of {MAX_FRAME} bytes"
    )


def test_sends_one_masked_final_binary_frame() -> None:
    sent = open_wire().send(b"ls\r")
    assert sent[:2] == b"\x82\x83"
    assert unmasked(sent)[2:] == b"ls\r"


def test_asks_for_binary_and_for_no_extension() -> None:
    request = Wire(URL).hello()
    assert request.startswith(b"GET / HTTP/1.1\r\n")
    assert b"Sec-WebSocket-Protocol: binary\r\n" in request
    assert b"Extensions" not in request


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_data_right_behind_the_handshake_is_kept(step: int) -> None:
    wire = Wire(URL)
    stream = answer(wire.hello(), frame(b"early") + frame(b"er"))
    got = b"".join(wire.receive(stream[i : i + step])[0] for i in range(0, len(stream), step))
    assert (wire.open, got) == (True, b"early" + b"er")


@pytest.mark.parametrize(
    ("said", "reason", "retry"),
    [
        (b"HTTP/1.1 404 Not Found\r\nServer: QEMU VNC\r\n\r\n", "path is exactly /", Retry.NO),
        (b"HTTP/1.1 400 Bad Request\r\nServer: QEMU VNC", "refused: HTTP/1.1 400 Bad", Retry.NO),
        (b"HTTP/1.0 200 OK\r\n\r\n<html>", "^a web server.*'HTTP/1.0 200 OK'.*port", Retry.NO),
        (b"HTTP/1.1 301 Moved\r\n\r\n", "^a web server.*'HTTP/1.1 301 Moved'", Retry.NO),
        (b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\n\r\n", "^a web server", Retry.NO),
        (b"HTTP/1.1 401 Who\r\n\r\n", "^refused: HTTP/1.1 401 Who$", Retry.NO),
        (b"HTTP/1.0 400 Bad\r\n\r\nyou spoke HTTP to an HTTPS server", "wss://", Retry.NO),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "502", Retry.YES),
        (b"HTTP/1.1 101 Sure\r\n\r\n", "not a websocket", Retry.NO),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "^an ssh server.*2.0-OpenSSH_9.2'", Retry.NO),
        (b"GET / HTTP/1.1\r\n", "websocket=on.*tcp://", Retry.NO),
        (b"\x1b[31mlogin: ", r"\\x1b\[31mlogin", Retry.NO),
        (b"\x15\x03\x01\x00\x02\x02\x28", "speaks TLS.*wss://", Retry.NO),
        (b"HTTP/1.1 403 Request Entity Too Large\r\n\r\n", "32 lines and 4096 bytes", Retry.NO),
        (b"", "closed without an answer", Retry.YES),
        (b"HTTP/1.1 200 " + b"x" * 20_000, "longer than", Retry.NO),
    ],
)
def test_an_answer_other_than_101_is_judged(said: bytes, reason: str, retry: Retry) -> None:
    wire = Wire(URL)
    wire.hello()
    if said:
        wire.receive(said)
    wire.receive_eof()
    assert wire.end is not None
    assert re.search(reason, wire.end.reason)
    assert wire.end.retry is retry


def test_a_loss_before_any_answer_may_be_for_want_of_tls() -> None:
    wire = Wire(URL)
    wire.receive_loss(End("reset"))
    assert wire.end is not None
    assert re.fullmatch(r"reset; .*wss://", wire.end.reason)
    for told in (open_wire(), Wire(UpstreamUrl.parse("wss://h:1"))):
        told.receive_loss(End("reset"))
        assert told.end == End("reset")


def test_the_end_of_the_stream_is_the_end_of_the_vm() -> None:
    wire = open_wire()
    wire.receive_eof()
    assert wire.end is not None
    assert "VM is gone" in wire.end.reason


def test_nothing_is_logged_of_what_is_typed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wire = open_wire()
    wire.send(b"hunter2")
    wire.receive(frame(b"hunter2"))
    assert caplog.text == ""
