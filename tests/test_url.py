"""Upstream URLs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.base.errors import UrlError
from bridge.settings.url import Scheme, TcpAddress, UnixAddress, UpstreamUrl


@pytest.mark.parametrize(
    ("text", "address", "resource", "name"),
    [
        ("ws://127.0.0.1:4555", TcpAddress("127.0.0.1", 4555), "/", "127.0.0.1-4555"),
        ("ws://vm-host.example/", TcpAddress("vm-host.example", 80), "/", "vm-host.example-80"),
        ("ws://[::1]:4555/vm1?x=1", TcpAddress("::1", 4555), "/vm1?x=1", "1-4555"),
        ("wss://h/?token=x", TcpAddress("h", 443), "/?token=x", "h-443"),
        ("ws+unix:///run/a%20b.sock", UnixAddress("/run/a b.sock"), "/", "a-b.sock"),
        ("tcp://h:23", TcpAddress("h", 23), "/", "h-23"),
        ("tls://[::1]:23/", TcpAddress("::1", 23), "/", "1-23"),
        ("unix:///run/vm1.sock", UnixAddress("/run/vm1.sock"), "/", "vm1.sock"),
    ],
)
def test_what_is_understood(
    text: str, address: TcpAddress | UnixAddress, resource: str, name: str
) -> None:
    url = UpstreamUrl.parse(text)
    assert (url.address, url.resource, url.default_name, str(url)) == (
        address,
        resource,
        name,
        text,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1:4555", "scheme"),
        ("wsx://h:1", "scheme 'wsx' is not known"),
        ("wss+unix:///run/x", "scheme 'wss\\+unix' is not known"),
        ("tcp://h", "has no port"),
        ("tls://h", "has no port"),
        ("tcp://h:1/x", "a path means nothing"),
        ("unix://x", "three slashes"),
        ("ws://", "has no host"),
        ("ws://:4555", "has no host"),
        ("ws://h:x", "Port could not"),
        ("ws://h:70000", "Port out of range"),
        ("ws://h:0", "port 0"),
        ("ws://[::1:4555", "Invalid IPv6"),
        ("ws://h:1/#x", "#fragment"),
        ("ws://h h:1", "printable ASCII"),
        ("ws://h\x1b[m:1", "printable ASCII"),
        ("ws://h:1/\u00fc", "write them as %XX"),
        ("ws+unix:///tmp/a%00b", "NUL"),
        ("ws+unix://relative.sock", "three slashes"),
        ("ws+unix:///", "absolute path"),
        ("ws+unix:///" + "x" * 200, "longer than"),
        ("", "no scheme"),
    ],
)
def test_what_is_not(text: str, reason: str) -> None:
    with pytest.raises(UrlError, match=reason) as raised:
        UpstreamUrl.parse(text)
    assert "allowed: ws://HOST:PORT, wss://HOST:PORT, " in str(raised.value)
    assert str(raised.value).isprintable()


def test_what_a_scheme_means() -> None:
    schemes = {}
    for scheme in Scheme:
        unix = scheme.value.endswith("unix")
        url = UpstreamUrl.parse(f"{scheme.value}://" + ("/x" if unix else "h:1"))
        schemes[scheme.value] = (url.websocket, url.tls, url.lossless)
    assert schemes == {
        "ws": (True, False, False),
        "wss": (True, True, False),
        "ws+unix": (True, False, False),
        "tcp": (False, False, True),
        "tls": (False, True, True),
        "unix": (False, False, True),
    }


def test_a_secret_is_neither_taken_nor_repeated() -> None:
    with pytest.raises(UrlError) as raised:
        UpstreamUrl.parse("ws://user:hunter2@h:1")
    assert "hunter2" not in str(raised.value)


@given(st.text(max_size=100))
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    try:
        name = UpstreamUrl.parse(text).default_name
    except UrlError as error:
        assert str(error).isprintable()
    else:
        assert name


def test_loopback() -> None:
    assert TcpAddress("localhost", 1).loopback == {"127.0.0.1", "::1"}
    assert TcpAddress("127.0.0.9", 1).loopback == {"127.0.0.9"}
    assert TcpAddress("192.0.2.1", 1).loopback == frozenset()
    assert TcpAddress("localhost.example", 1).loopback == frozenset()


@pytest.mark.parametrize(
    ("text", "port"),
    [("ws://h", 80), ("wss://h/x", 443), ("ws://h:80", 0), ("tcp://h:1", 0), ("unix:///x", 0)],
)
def test_a_port_that_was_not_named_is_told(text: str, port: int) -> None:
    assert (f"port {port}," in UpstreamUrl.parse(text).reminder) is bool(port)
