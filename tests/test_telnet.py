"""The telnet engine: conversations of real clients, and what holds for any bytes, cut anywhere."""

import itertools
import json
import re
from collections.abc import Callable, Iterable
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.base.codec import Signal
from bridge.base.telnet import Code, Option, Telnet, TelnetState

pytestmark = pytest.mark.timeout(600)  # 10 000 examples on a busy machine

IAC, SB, SE = bytes([Code.IAC]), bytes([Code.SB]), bytes([Code.SE])
NEGOTIATION = [Code.WILL, Code.WONT, Code.DO, Code.DONT]


def said(words: str) -> bytes:
    """Telnet as it is spoken of: ``WILL ECHO``, ``IP``; one command a comma."""
    names = {**Code.__members__, **Option.__members__}
    return b"".join(
        IAC + bytes(names[word] if word in names else int(word) for word in command.split())
        for command in words.split(",")
        if command
    )


GREETING = "WILL ECHO,WILL SGA,DO SGA,WILL BINARY,DO BINARY"
AGREEMENT = said("DO ECHO,DO SGA,WILL SGA,DO BINARY,WILL BINARY")

# What real clients sent (Debian 12), after the greeting, for `a`, Enter, ^C, a 0xff
# followed by CR LF and what else they can say: (sent, what the guest gets, our answer).
Step = tuple[bytes, list[bytes | Signal], bytes]
INETUTILS: list[Step] = [
    (AGREEMENT, [], b""),
    (b"a", [b"a"], b""),
    (b"\r", [b"\r"], b""),
    (b"\x03", [b"\x03"], b""),
    (b"\xff\xff\r\n", [b"\xff\r\n"], b""),
    (said("AYT"), [], b"\r\n[ttybridge: yes]\r\n"),
    (said("BRK") + b"h", [Signal.BREAK, b"h"], b""),
    (said("DM") + b"q", [b"q"], b""),  # its Synch
    (said("EC"), [b"\x7f"], b""),
]
# Without an agreement, or told to change to line mode.
INETUTILS_LINES: list[Step] = [
    (said("DONT ECHO,DONT SGA,WONT SGA"), [], said("WONT ECHO,WONT SGA,DONT SGA")),
    (said("DONT BINARY,WONT BINARY"), [], said("WONT BINARY,DONT BINARY")),
    (b"ab\r\n", [b"ab\r"], b""),
    (said("IP,DO TIMING_MARK"), [b"\x03"], said("WILL TIMING_MARK")),
    (said("DO ECHO,DO SGA,WILL SGA"), [], said("WILL ECHO,WILL SGA,DO SGA")),
    (b"c\r\0", [b"c\r"], b""),
]
BUSYBOX: list[Step] = [
    # It answers DO SGA as if it were WILL: by a DONT for what it has just wished.
    (said("DO ECHO,DO SGA,DONT SGA,DONT BINARY,WONT BINARY"), [], said("WONT SGA")),
    (b"a", [b"a"], b""),
    (b"\r\n", [b"\r"], b""),
    (b"\x03", [b"\x03"], b""),
    (b"\xff\xff\r\n\r\n", [b"\xff\r\r"], b""),
]
PLINK: list[Step] = [
    (
        said("WILL 31,WILL 32,WILL 24,WILL 39,DO ECHO,WILL SGA,DO SGA,DO BINARY,WILL BINARY"),
        [],
        said("DONT 31,DONT 32,DONT 24,DONT 39"),
    ),
    (said("WILL 36"), [], said("DONT 36")),
    (b"a", [b"a"], b""),
    (b"\r", [b"\r"], b""),
    (b"\x03", [b"\x03"], b""),
    (b"\xff\xff\r\n", [b"\xff\r\n"], b""),
]
SCREEN: list[Step] = [
    (said("DO ECHO,DO SGA,WILL SGA,DONT BINARY,WONT BINARY"), [], b""),
    (b"a\r\0", [b"a\r"], b""),
    (b"\xff\xff\r\0\n", [b"\xff\r\n"], b""),
]
DIALOGUES = {
    "inetutils and netkit": INETUTILS,
    "inetutils in line mode": INETUTILS + INETUTILS_LINES,
    "busybox": BUSYBOX,
    "plink": PLINK,
    "screen": SCREEN,
}


def greeted() -> Telnet:
    telnet = Telnet.server()
    assert telnet.greeting() == said(GREETING)
    assert not telnet.settled
    return telnet


@pytest.mark.parametrize("client", DIALOGUES)
def test_a_real_clients_dialogue(client: str) -> None:
    telnet = greeted()
    for sent, guest, answer in DIALOGUES[client]:
        assert telnet.decode(sent) == (guest, answer)
        assert telnet.settled


@pytest.mark.parametrize("client", DIALOGUES)
def test_a_real_clients_dialogue_in_single_bytes(client: str) -> None:
    telnet = greeted()
    for sent, guest, answer in DIALOGUES[client]:
        assert decode(telnet, sent, range(len(sent))) == (guest, answer)


def test_qemus_own_greeting_is_agreed_to() -> None:
    """Its chardev with telnet=on is a server."""
    client = Telnet.client()
    assert client.greeting() == b""
    qemu = said("WILL ECHO,WILL SGA,WILL BINARY,DO BINARY")
    assert client.decode(qemu + b"\r\0\xff\xff\r\n") == (
        [b"\r\0\xff\r\n"],
        said("DO ECHO,DO SGA,DO BINARY,WILL BINARY"),
    )
    assert client.encode(b"\r\xff\r\n") == b"\r\xff\xff\r\n"


def test_a_cr_is_never_held_back() -> None:
    for telnet in (Telnet.server(), Telnet.client()):
        assert telnet.decode(b"a\r") == ([b"a\r"], b"")
        assert telnet.decode(b"\0b") == ([b"b"], b"")
    server = Telnet.server()
    assert server.encode(b"50 %\r") == b"50 %\r"
    assert server.encode(b"60 %\r") == b"\x0060 %\r"
    assert server.encode(b"\nready") == b"\nready"
    assert Telnet.client().encode(b"\r") == b"\r\0"


def test_the_change_to_binary_happens_where_it_is_said() -> None:
    telnet = greeted()
    assert telnet.decode(b"\r\n\r" + said("WILL BINARY") + b"\n\r\n") == ([b"\r\r\n\r\n"], b"")
    assert telnet.encode(b"\r") == b"\r"
    telnet.decode(said("DO BINARY"))
    assert telnet.encode(b"x\ry") == b"x\ry"
    assert telnet.decode(said("DONT BINARY")) == ([], said("WONT BINARY"))
    assert telnet.encode(b"x\ry") == b"x\r\0y"
    assert telnet.decode(said("WONT BINARY") + b"\r\n") == ([b"\r"], said("DONT BINARY"))
    assert telnet.decode(b"\r" + said("WILL BINARY") + b"x" + said("WONT BINARY") + b"\n") == (
        [b"\rx\n"],
        said("DO BINARY,DONT BINARY"),
    )


def test_a_cr_is_joined_with_the_next_byte_of_data_only() -> None:
    telnet = Telnet.server()
    assert telnet.decode(b"\r" + said("NOP") + b"\n") == ([b"\r"], b"")
    assert telnet.decode(b"\r\xff\xff\n") == ([b"\r\xff\n"], b"")


def test_commands_that_mean_a_key() -> None:
    keys = said("SUSP,ABORT,IP,EC,EL")
    assert Telnet.server().decode(keys) == ([b"\x1a\x1c\x03\x7f\x15"], b"")


def test_the_end_of_a_clients_input_is_not_typed() -> None:
    """plink sends EOF when its window is closed; a ^D would log the guest's shell out."""
    assert Telnet.server().decode(b"a" + said("EOF") + b"b") == ([b"ab"], b"")


def test_other_commands_mean_nothing() -> None:
    others = set(range(256)) - set(range(236, 239)) - set(range(243, 256)) | {Code.AO, Code.GA}
    for code in others:
        assert Telnet.server().decode(b"a" + IAC + bytes([code]) + b"b") == ([b"ab"], b""), code


def test_a_subnegotiation_is_never_typed() -> None:
    telnet = greeted()
    window_size = said("SB 31 0") + b"\xff\xff\0\x18" + said("SE")  # 255 columns
    assert telnet.decode(b"a" + window_size + b"b") == ([b"ab"], b"")
    assert telnet.decode(said("SB 24,WILL,SE") + b"c") == ([b"c"], b"")
    endless = said("SB 24") + b"rm -rf\r" * 100_000 + said("BRK,AYT,WILL ECHO")
    assert telnet.decode(endless) == ([], b"")
    assert len(json.dumps(telnet.state())) < 500
    assert telnet.decode(b"rm\r" + said("SE") + b"ls\r") == ([b"ls\r"], b"")


def test_two_that_flip_at_each_others_answers_come_to_an_end() -> None:
    """Busybox' telnet in a state it should not be in, as measured: DO SGA, DONT SGA, DO SGA..."""
    telnet = Telnet.server()
    answers, flip = b"", said("DO SGA,DONT SGA")
    for _ in range(1000):
        guest, reply = telnet.decode(flip)
        assert guest == []
        answers += reply
    assert answers == said("WILL SGA,WONT SGA") * 128
    assert telnet.decode(b"ls\r" + said("BRK,AYT,DO TIMING_MARK")) == (
        [b"ls\r", Signal.BREAK],
        b"\r\n[ttybridge: yes]\r\n" + said("WILL TIMING_MARK"),
    )


# Streams: of a client that behaves, and of one that does not.
Side = Callable[[], Telnet]
Events = tuple[list[bytes | Signal], bytes]

OPTIONS = st.sampled_from([*map(bytes, [[option] for option in Option]), b"\x18", b"\x1f", b"\xff"])
COMMANDS = st.one_of(
    st.builds(
        lambda verb, option: IAC + bytes([verb]) + option, st.sampled_from(NEGOTIATION), OPTIONS
    ),
    st.sampled_from([*Code]).map(lambda code: IAC + bytes([code])),
    st.binary(min_size=1, max_size=2).map(lambda code: IAC + code),
    st.binary(max_size=8).map(lambda inner: IAC + SB + inner.replace(IAC, IAC * 2) + IAC + SE),
)
TEXT = st.one_of(
    st.binary(max_size=20),
    st.lists(
        st.sampled_from([b"\r", b"\n", b"\0", b"\r\n", b"\r\0", IAC * 2, b"ls", IAC]), max_size=8
    ).map(b"".join),
)
STREAMS = st.lists(st.one_of(COMMANDS, TEXT), max_size=20).map(b"".join)
CUTS = st.lists(st.integers(0, 1 << 16), max_size=8)
SIDES = st.sampled_from([greeted, Telnet.server, Telnet.client])


def cut(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(stream) + 1) for at in cuts), len(stream)]
    return [stream[start:stop] for start, stop in itertools.pairwise(edges)]


def decode(telnet: Telnet, stream: bytes, cuts: Iterable[int]) -> Events:
    """Decode in pieces; neighbouring data joined, as in one piece."""
    events: list[bytes | Signal] = []
    reply = b""
    for piece in cut(stream, cuts):
        more, answer = telnet.decode(piece)
        reply += answer
        for event in more:
            if events and isinstance(event, bytes) and isinstance(events[-1], bytes):
                events[-1] += event
            else:
                events.append(event)
    return events, reply


def handed_over(telnet: Telnet) -> Telnet:
    return Telnet.restore(cast("TelnetState", json.loads(json.dumps(telnet.state()))))


@given(SIDES, STREAMS, CUTS)
def test_any_stream_cut_anywhere_means_the_same(side: Side, stream: bytes, cuts: list[int]) -> None:
    whole, pieces, single = side(), side(), side()
    expected = decode(whole, stream, [])
    assert decode(pieces, stream, cuts) == expected
    assert decode(single, stream, range(len(stream))) == expected
    assert pieces.state() == single.state() == whole.state()


@given(SIDES, STREAMS, STREAMS, st.integers(0, 1 << 16))
@example(Telnet.server, b"\r\nls", b"\rx", 1)
def test_a_restart_is_not_noticed(side: Side, stream: bytes, output: bytes, at: int) -> None:
    stays, goes = side(), side()
    first, second = cut(stream, [at])
    before, after = cut(output, [at])
    assert stays.decode(first) == goes.decode(first)
    assert stays.encode(before) == goes.encode(before)
    goes = handed_over(goes)
    assert stays.encode(after) == goes.encode(after)
    assert stays.decode(second) == goes.decode(second)
    assert stays.state() == goes.state()


@given(SIDES, st.one_of(st.binary(max_size=4000), STREAMS))
def test_answers_are_bounded_by_what_asked_for_them(side: Side, stream: bytes) -> None:
    telnet = side()
    events, reply = telnet.decode(stream)
    visible = reply.count(b"[ttybridge: yes]")
    assert visible <= stream.count(said("AYT"))
    assert len(reply) - 20 * visible <= len(stream)
    data = b"".join(event for event in events if isinstance(event, bytes))
    assert len(data) <= len(stream)
    assert all(events)


def talk(left: Telnet, right: Telnet, to_left: bytes, to_right: bytes) -> int:
    """Let each have what the other answers, until both are silent; how often that was."""
    for rounds in itertools.count():
        if not to_left and not to_right:
            return rounds
        to_left, to_right = right.decode(to_right)[1], left.decode(to_left)[1]
    raise AssertionError


def test_two_engines_agree_at_once() -> None:
    for one, other in itertools.product((Telnet.server, Telnet.client), repeat=2):
        left, right = one(), other()
        assert talk(left, right, right.greeting(), left.greeting()) <= 3
        assert left.settled
        assert right.settled


@given(SIDES, SIDES, STREAMS, STREAMS)
@example(Telnet.server, Telnet.client, said("DO SGA,DONT SGA"), b"")
def test_any_two_engines_fall_silent(one: Side, other: Side, noise: bytes, more: bytes) -> None:
    """Whatever has been said, and whoever they are.

    Two that answer as they should go round for ever once one has been told two things at
    once, which RFC 1143 forbids: it is their patience that ends.
    """
    assert talk(one(), other(), noise, more) <= 2 * 256 + 3


@given(st.lists(st.one_of(COMMANDS, TEXT), max_size=10))
def test_each_refusal_is_an_answer_to_a_request(pieces: list[bytes]) -> None:
    """Options that are not ours are told no, however often, and never spoken of otherwise."""
    _, reply = greeted().decode(b"".join(pieces))
    for verb, option in re.findall(rb"\xff([\xfb-\xfe])(.)", reply, re.DOTALL):
        if option[0] not in set(Option):
            assert verb[0] in {Code.WONT, Code.DONT}


# What passes through.


def binary(server: Telnet, client: Telnet) -> None:
    _, answers = client.decode(server.greeting())
    assert server.decode(answers) == ([], b"")


ANY = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"\r", b"\n", b"\0", b"\xff", b"x", b"\r\n"]), max_size=30).map(
        b"".join
    ),
    st.just(bytes(range(256))),
)


@given(ANY, CUTS, CUTS, st.booleans(), st.booleans())
def test_all_bytes_pass_in_both_modes_and_directions(
    data: bytes, cuts: list[int], packets: list[int], agreed: bool, typed: bool
) -> None:
    server, client = Telnet.server(), Telnet.client()
    if agreed:
        binary(server, client)
    sender, receiver = (client, server) if typed else (server, client)
    wire = b"".join(sender.encode(piece) for piece in cut(data, cuts))
    assert decode(receiver, wire, packets) == ([data] if data else [], b"")


def nvt_text(wire: bytes) -> bytes:
    """RFC 854's printer, which is told what a CR means by the byte behind it."""
    text = bytearray()
    stream = iter(wire)
    for byte in stream:
        if byte == Code.IAC:
            assert next(stream) == Code.IAC
        text.append(byte)
        if byte == 0x0D:
            follower = next(stream, None)
            assert follower in {0x00, 0x0A, None}, "RFC 854: CR is followed by LF or NUL"
            text += b"\n" if follower == 0x0A else b""
    return bytes(text)


@given(ANY, CUTS)
def test_without_binary_the_output_is_what_rfc_854_says(data: bytes, cuts: list[int]) -> None:
    server, whole = Telnet.server(), Telnet.server()
    wire = b"".join(server.encode(piece) for piece in cut(data, cuts))
    assert wire == whole.encode(data)
    assert nvt_text(wire) == data


class Wire:
    """Two engines and what is on its way between them."""

    def __init__(self) -> None:
        self.engine = {"server": Telnet.server(), "client": Telnet.client()}
        self.sent = {"server": b"", "client": b""}
        self.received = {"server": b"", "client": b""}
        self.coming = {"server": b"", "client": self.engine["server"].greeting()}

    def send(self, sender: str, data: bytes) -> None:
        self.sent[sender] += data
        self.coming[other(sender)] += self.engine[sender].encode(data)

    def deliver(self, receiver: str, count: int) -> None:
        arrived = self.coming[receiver][:count]
        self.coming[receiver] = self.coming[receiver][count:]
        events, reply = self.engine[receiver].decode(arrived)
        self.received[receiver] += b"".join(e for e in events if isinstance(e, bytes))
        self.coming[other(receiver)] += reply


def other(side: str) -> str:
    return "client" if side == "server" else "server"


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["server", "client"]), st.one_of(ANY, st.integers(1, 8))),
    max_size=20,
)


@given(ACTIONS)
def test_what_is_sent_while_they_negotiate_arrives(actions: list[tuple[str, bytes | int]]) -> None:
    """At whatever moment the mode changes, each byte means to the receiver what it did to the sender.

    With the one exception that RFC 854 has: what a server sends before it knows that
    BINARY is agreed to may get a NUL behind a lone CR.
    """
    wire = Wire()
    for side, what in actions:
        if isinstance(what, int):
            wire.deliver(side, what)
        else:
            wire.send(side, what)
    while any(wire.coming.values()):
        wire.deliver("server", 1000)
        wire.deliver("client", 1000)
    assert wire.received["server"] == wire.sent["client"]
    assert wire.received["client"].replace(b"\0", b"") == wire.sent["server"].replace(b"\0", b"")


def test_a_server_that_asks_whether_we_are_there_has_nothing_typed_into_its_guest() -> None:
    assert Telnet.client().decode(said("AYT") + b"x") == ([b"x"], b"")
