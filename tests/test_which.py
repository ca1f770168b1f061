"""Which chardev is a console's, and what its rescue says to QEMU: by what QMP shows."""

from collections.abc import Generator
from typing import Any

import pytest

from bridge.settings.url import TcpAddress, UnixAddress
from bridge.vms.qmp import CharInfo, Command, Listening, QmpError, QmpRefusedError
from bridge.vms.rescue import rescue
from bridge.vms.which import chardev_at, peer_at

ROWS = tuple(
    CharInfo(label, filename, open=True)
    for label, filename in {
        "mon": "unix:/run/qmp,server=on",
        "a": "websocket:127.0.0.1:4555,server=on <-> 127.0.0.1:53236",
        "b": "disconnected:websocket:::1:4555,server=on",
        "any": "disconnected:websocket:0.0.0.0:4556,server=on",
        "lan": "disconnected:telnet:192.0.2.7:4557,server=on",
        "u": "disconnected:unix:/run/vm/serial,server=on",
        "rel": "unix:here.sock,server=on",
        "mux": "mux",
        "m-base": "websocket:127.0.0.1:4558,server=on",
        "client": "tcp:127.0.0.1:4559",
        "twice": "disconnected:unix:/a/x,server=on",
        "again": "disconnected:unix:/b/x,server=on",
    }.items()
)


@pytest.mark.parametrize(
    ("address", "label"),
    [
        (TcpAddress("127.0.0.1", 4555), "a"),
        (TcpAddress("::1", 4555), "b"),
        (TcpAddress("localhost", 4556), "any"),
        (TcpAddress("127.0.0.1", 4556), "any"),
        (TcpAddress("vmhost.example.org", 4556), "any"),
        (TcpAddress("192.0.2.7", 4557), "lan"),
        (TcpAddress("vmhost.example.org", 4557), "lan"),
        (TcpAddress("127.0.0.1", 4558), "m-base"),
        (UnixAddress("/run/vm/serial"), "u"),
        (UnixAddress("/home/me/here.sock"), "rel"),
        (UnixAddress("/b/x"), "again"),
    ],
)
def test_the_row_of_an_address(address: TcpAddress | UnixAddress, label: str) -> None:
    assert chardev_at(address, ROWS).label == label


@pytest.mark.parametrize(
    "address",
    [
        TcpAddress("127.0.0.1", 4559),  # that one is no server
        TcpAddress("127.0.0.1", 1),
        TcpAddress("vmhost.example.org", 4555),  # two
        UnixAddress("/c/x"),
        UnixAddress("/nowhere"),
    ],
)
def test_an_address_that_none_has_or_two_may(address: TcpAddress | UnixAddress) -> None:
    with pytest.raises(QmpError, match=r"QMP shows no chardev at .*; it shows: mon \("):
        chardev_at(address, ROWS)
    assert peer_at(address, ROWS) is None


def test_who_has_it() -> None:
    assert peer_at(TcpAddress("127.0.0.1", 4555), ROWS) == "127.0.0.1:53236"
    assert peer_at(TcpAddress("127.0.0.1", 4556), ROWS) is None


def test_nothing_of_a_machine_is_printed_as_it_is() -> None:
    rows = [CharInfo("\x1b[2J", "unix:/\x1b,server=on", open=True)]
    with pytest.raises(QmpError, match=r"it shows: \\x1b\[2J \(unix:/\\x1b,server=on\)"):
        chardev_at(UnixAddress("/q"), rows)


PLAIN = Listening()


def said(
    address: TcpAddress | UnixAddress, host: str | None = None, how: Listening = PLAIN
) -> list[dict[str, Any]]:
    """What QEMU is told, as long as it does not refuse."""
    talk: Generator[Command[Any], Any, None] = rescue(address, host, how)
    command, told = next(talk), []
    try:
        while True:
            if command.name == "chardev-change":
                told.append(command.arguments)
            command = talk.send(ROWS)
    except StopIteration:
        return told


def test_a_rescue_goes_away_and_comes_back() -> None:
    away, back = said(TcpAddress("127.0.0.1", 4555))
    assert (away["id"], back["id"]) == ("a", "a")
    assert away["backend"]["data"]["addr"]["data"] == {"host": "127.0.0.1", "port": "0"}
    assert back["backend"]["data"] == {
        "addr": {"type": "inet", "data": {"host": "127.0.0.1", "port": "4555"}},
        "server": True,
        "wait": False,
        "websocket": True,
        "telnet": False,
    }


def test_a_rescue_keeps_what_is_known() -> None:
    """A name is two addresses; the log is not cut."""
    away, back = said(TcpAddress("localhost", 4556), "localhost", Listening(True, True, "/l"))
    for change in (away, back):
        data = change["backend"]["data"]
        assert data["addr"]["data"]["host"] == "localhost"
        assert (data["telnet"], data["logfile"], data["logappend"]) == (True, "/l", True)
    away, back = said(UnixAddress("/home/me/here.sock"))
    assert away["backend"]["data"]["addr"] == {"type": "unix", "data": {"path": "here.sock.rescue"}}
    assert back["backend"]["data"]["addr"]["data"] == {"path": "here.sock"}


def test_a_rescue_that_does_not_come_back_says_where_it_is() -> None:
    talk = rescue(TcpAddress("127.0.0.1", 4555), None, Listening())
    next(talk)
    talk.send(ROWS)
    talk.send(None)
    talk.throw(QmpRefusedError("chardev-change: in use"))
    now = [CharInfo("a", "disconnected:websocket:127.0.0.1:40001,server=on", open=True)]
    with pytest.raises(QmpError, match=r"listens at .*127.0.0.1:40001.* now: .*in use"):
        talk.send(now)


def test_a_rescue_that_is_refused_changes_nothing() -> None:
    talk = rescue(TcpAddress("127.0.0.1", 4558), None, Listening())
    next(talk)
    talk.send(ROWS)
    with pytest.raises(QmpRefusedError, match="hotswap"):
        talk.throw(QmpRefusedError("chardev-change: Chardev user does not support chardev hotswap"))
