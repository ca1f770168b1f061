"""The websocket endpoint without I/O: who is let in, and the codec against the library alone."""

import itertools
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from bridge.base.codec import Signal
from bridge.endpoints.wsserver import (
    MAX_PAYLOAD,
    Door,
    Handshake,
    NotUpgradedError,
    ServerCodec,
    Wish,
)
from tests.support.websocket import TOKEN, UPGRADE, close, head, masked
from tests.test_websocket import frame as bare_frame

DOOR = Door(4600, TOKEN)
PAGE = {"Origin": "http://evil.example"}
PLAIN_GET = {"Host": "localhost:4600"}


def ask(request: bytes, door: Door = DOOR) -> Wish | int:
    """What is asked for, or the status that refuses it."""
    try:
        handshake = Handshake(request)
        wish = handshake.wish(door)
        handshake.accept()
    except NotUpgradedError as refused:
        assert refused.answer.startswith(b"HTTP/1.1 %d " % refused.status)
        assert b"\r\nConnection: close\r\n" in refused.answer
        assert TOKEN.encode() not in refused.answer
        assert TOKEN not in refused.warning
        return refused.status
    return wish


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (head(), Wish("vm1")),
        (head("/"), Wish("")),
        (head("/a%2Eb?"), Wish("a.b")),
        (head("/vm1?readonly=1"), Wish("vm1", readonly=True)),
        (head("/vm1?x=y&readonly"), Wish("vm1", readonly=True)),
        (head("/vm1?readonly=0"), Wish("vm1")),
        # The host.
        (head(headers=UPGRADE | {"Host": "LocalHost:4600"}), Wish("vm1")),
        (head(headers=UPGRADE | {"Host": "rebound.example:4600"}), 403),
        (head(headers=UPGRADE | {"Host": "127.0.0.1:4601"}), 403),
        (head(headers=UPGRADE | {"Host": "127.0.0.1"}), 403),
        (head(headers=UPGRADE | {"Host": "localhost.evil.example:4600"}), 403),
        (head(headers=UPGRADE | {"Host": ""}), 403),
        (head(more="Host: 127.0.0.1:4600\r\n"), 400),
        (head(headers={}), 400),
        # The origin.
        (head(more="Origin: http://evil.example\r\n"), 403),
        (head(more="Origin: http://127.0.0.1:4600\r\n"), 403),
        (head(more="Origin: null\r\n"), 403),
        (head(more="Origin:\r\n"), 403),
        (head(f"/vm1?token={TOKEN}", UPGRADE | PAGE), Wish("vm1")),
        (head("/vm1?token=%30" + TOKEN[1:], UPGRADE | PAGE), Wish("vm1")),
        (head(f"/vm1?token={TOKEN}x", UPGRADE | PAGE), 403),
        (head("/vm1?token=", UPGRADE | PAGE), 403),
        (head("/vm1?token=%ff%00%f0", UPGRADE | PAGE), 403),
        (head(f"/vm1#?token={TOKEN[:-1]}", UPGRADE | PAGE), 403),
        (
            head(headers=UPGRADE | PAGE | {"Sec-WebSocket-Protocol": f"binary, token.{TOKEN}"}),
            Wish("vm1"),
        ),
        (head(headers=UPGRADE | PAGE | {"Sec-WebSocket-Protocol": f"binary, {TOKEN}"}), 403),
        (head(headers=UPGRADE | PAGE | {"Sec-WebSocket-Protocol": "binary, token."}), 403),
        # The rebound host is refused with the token, too.
        (head(f"/vm1?token={TOKEN}", UPGRADE | PAGE | {"Host": "evil.example:4600"}), 403),
        # Not a websocket.
        (head("/", PLAIN_GET), 200),
        (head("/", PLAIN_GET | PAGE), 403),
        (head("/vm1", PLAIN_GET), 426),
        (head(headers=UPGRADE | {"Sec-WebSocket-Version": "8"}), 400),
        (head(headers=UPGRADE | {"Sec-WebSocket-Key": "short"}), 400),
        (head("http://127.0.0.1:4600/vm1"), 400),
        (head("*"), 400),
        (head().replace(b"GET", b"POST"), 405),
        (head().replace(b"1.1", b"1.0"), 505),
        (head(more="Content-Length: 5\r\n"), 400),
        (b"reboot\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
)
def test_who_is_let_in(request_: bytes, expected: Wish | int) -> None:
    assert ask(request_) == expected


def test_at_port_80_no_port_is_named() -> None:
    assert ask(head(headers=UPGRADE | {"Host": "localhost"}), Door(80, TOKEN)) == Wish("vm1")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(None, None), ("binary", "binary"), ("base64, binary", "binary"), ("base64", None)],
)
def test_subprotocol_is_binary_or_none(offered: str | None, chosen: str | None) -> None:
    more = f"Sec-WebSocket-Protocol: {offered}, token.{TOKEN}\r\n" if offered else ""
    answer = Handshake(head(more=more)).accept().greeting()
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert (b"Sec-WebSocket-Protocol: binary\r\n" in answer) == (chosen == "binary")
    assert answer.count(b"Sec-WebSocket-Protocol") == (chosen is not None)
    assert b"Extensions" not in answer


NAMES = st.sampled_from(["Host", "Origin", "Upgrade", "Connection", "Sec-WebSocket-Protocol", "X"])
VALUES = st.text(st.characters(codec="latin-1"), max_size=30) | st.sampled_from(
    ["127.0.0.1:4600", "websocket", "Upgrade", "http://x", f"token.{TOKEN[:-1]}"]
)


@given(
    st.text(st.characters(codec="latin-1"), max_size=30),
    st.lists(st.tuples(NAMES, VALUES), max_size=12),
)
def test_no_page_without_the_token_whatever_it_says(
    target: str, headers: list[tuple[str, str]]
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    request = head(f"/{target}", more=f"{lines}Origin: http://evil.example\r\n")
    assert isinstance(ask(request), int)
    request = f"GET /{target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    assert isinstance(ask(request), int | Wish)


@given(st.binary(max_size=200), st.sampled_from([b"", b"GET ", b"GET / HTTP/1.1\r\n"]))
def test_any_bytes_are_an_answer_or_a_wish(data: bytes, before: bytes) -> None:
    assert isinstance(ask(before + data + b"\r\n\r\n"), int | Wish)


# The codec.


def opened() -> ServerCodec:
    codec = Handshake(head()).accept()
    codec.greeting()
    return codec


DATA = st.sampled_from([Opcode.BINARY, Opcode.TEXT, Opcode.CONT])
FRAMES = st.one_of(
    st.builds(masked, st.binary(max_size=200), DATA, fin=st.booleans()),
    st.builds(masked, st.binary(max_size=200), st.just(Opcode.BINARY)),
    st.builds(masked, st.binary(max_size=125), st.sampled_from([Opcode.PING, Opcode.PONG])),
    st.builds(lambda size: masked(bytes(size)), st.sampled_from([125, 126, 65535, 65536])),
)
WRONG = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.builds(lambda: masked(Close(1000, "bye").serialize(), Opcode.CLOSE)),
    st.builds(lambda: masked(b"", Opcode.CLOSE)),
    st.builds(lambda: masked(b"x", Opcode.CLOSE)),
    st.builds(bare_frame, st.binary(max_size=10)),  # not masked
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    return b"".join(draw(st.lists(FRAMES, max_size=8))) + draw(st.just(b"") | WRONG)


def library_alone(stream: bytes) -> tuple[bytes, bytes, bool]:
    """Payload, answers, and whether it is over, by ServerProtocol."""
    protocol = ServerProtocol(state=OPEN, max_size=None)
    protocol.receive_data(stream)
    events = protocol.events_received()
    payload = b"".join(
        bytes(e.data)
        for e in events
        if isinstance(e, Frame) and e.opcode in {Opcode.CONT, Opcode.TEXT, Opcode.BINARY}
    )
    return payload, b"".join(protocol.data_to_send()), protocol.state is not OPEN


def feed(codec: ServerCodec, pieces: list[bytes]) -> tuple[bytes, bytes, bool]:
    payload, answers, over = b"", b"", False
    for piece in pieces:
        events, answer = codec.decode(piece)
        answers += answer
        for event in events:
            assert not over
            if isinstance(event, bytes):
                payload += event
            over = event is Signal.END
        if over:
            break
    assert over == codec.over
    return payload, answers, over


@st.composite
def cuts(draw: st.DrawFn) -> list[bytes]:
    stream = draw(streams())
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in itertools.pairwise([0, *places, len(stream)])]


@given(cuts())
def test_frames_cut_anywhere_mean_what_the_library_says(pieces: list[bytes]) -> None:
    payload, answers, over = library_alone(b"".join(pieces))
    got, said, ended = feed(opened(), pieces)
    if not over and not ended:
        # The last frame may be there in part, and then what there is of it is passed on.
        assert got.startswith(payload)
        assert said == answers
        return
    assert ended
    # What the library waits for to its end, a control frame that is too long, we do not.
    if over:
        assert (got, said) == (payload, answers)


def test_a_token_that_is_no_text_is_wrong() -> None:
    """What of a byte that is no UTF-8, the library's versions differ about."""
    offer = {"Sec-WebSocket-Protocol": f"binary, token.{TOKEN}!"}
    for request in (
        head(f"/vm1?token={TOKEN}!", UPGRADE | PAGE),
        head(headers=UPGRADE | PAGE | offer),
    ):
        assert ask(request.replace(b"!", b"\xff")) in {400, 403}


@given(cuts())
def test_a_restored_codec_goes_on_as_the_one_before(pieces: list[bytes]) -> None:
    one, two = opened(), opened()
    for piece in pieces:
        if not two.over:
            two = ServerCodec.restore(json.loads(json.dumps(two.state())))
            assert two.greeting() == b""
        assert one.decode(piece) == two.decode(piece)


@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_do_not_raise_and_little_is_kept(pieces: list[bytes]) -> None:
    codec = opened()
    for piece in pieces:
        events, _ = codec.decode(piece)
        assert sum(len(event) for event in events if isinstance(event, bytes)) <= 300
        assert len(bytes.fromhex(codec.state()["tail"])) <= 2 + 4 + 125
        codec.encode(b"x")


@pytest.mark.parametrize("step", [1, 2, 3, 1000, 1 << 20])
def test_a_frame_of_any_length_is_never_held_back(step: int) -> None:
    text = random.Random(0).randbytes(70_000)
    codec, seen, wire = opened(), b"", masked(text)
    for at in range(0, len(wire), step):
        events, answer = codec.decode(wire[at : at + step])
        seen += b"".join(event for event in events if isinstance(event, bytes))
        assert len(seen) == max(0, min(at + step, len(wire)) - 14)
        assert answer == b""
    assert seen == text


def test_output_is_one_binary_frame_a_burst() -> None:
    codec = opened()
    assert codec.encode(b"") == b""
    assert codec.encode(b"hello") == b"\x82\x05hello"
    assert codec.encode(bytes(300)) == b"\x82\x7e\x01\x2c" + bytes(300)
    burst = random.Random(0).randbytes(MAX_PAYLOAD + 1)
    first, second = bare_frame(burst[:MAX_PAYLOAD]), bare_frame(burst[MAX_PAYLOAD:])
    assert codec.encode(burst) == first + second


def test_a_close_is_answered_and_nothing_follows() -> None:
    codec = opened()
    bye = Close(CloseCode.NORMAL_CLOSURE, "bye").serialize()
    stream = masked(b"last") + masked(bye, Opcode.CLOSE) + masked(b"too late")
    assert codec.decode(stream) == ([b"last", Signal.END], bare_frame(bye, 8))
    assert codec.over
    assert codec.encode(b"more") == b""
    assert codec.farewell() == b""


def test_the_end_of_a_console_is_a_farewell() -> None:
    codec = opened()
    assert codec.farewell() == close(CloseCode.GOING_AWAY)
    assert codec.encode(b"more") == b""


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (bare_frame(b"not masked"), CloseCode.PROTOCOL_ERROR),
        (masked(b"\x00", Opcode.CLOSE), CloseCode.PROTOCOL_ERROR),
        (masked(b"continued", Opcode.CONT), CloseCode.PROTOCOL_ERROR),
        (b"\xc2" + masked(b"compressed")[1:], CloseCode.PROTOCOL_ERROR),
        (b"\x83" + masked(b"what")[1:], CloseCode.PROTOCOL_ERROR),
        (b"\x09" + masked(b"fragmented ping")[1:], CloseCode.PROTOCOL_ERROR),
        (b"\x89\xff" + (1 << 60).to_bytes(8, "big") + b"mask", CloseCode.PROTOCOL_ERROR),
        (masked(Close(1000, "").serialize() + b"\xff", Opcode.CLOSE), CloseCode.INVALID_DATA),
    ],
)
def test_a_violation_is_named_by_its_code(wire: bytes, code: CloseCode) -> None:
    codec = opened()
    events, answer = codec.decode(masked(b"before") + wire)
    assert events == [b"before", Signal.END]
    assert answer[0] == 0x88
    assert Close.parse(answer[2:]).code == code
