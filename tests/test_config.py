"""Settings: what is right is read, what is wrong is named with its place and what is allowed."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.base.errors import BridgeError, ConfigError, UsageError
from bridge.console.pacing import Input
from bridge.settings.access import Access, Credential, Plain, SecretFile
from bridge.settings.config import (
    KEYS,
    SERVICE_KEYS,
    Configuration,
    ConsoleSettings,
    ServiceSettings,
    check_unique,
    from_arguments,
    load,
    parse,
    with_ports,
)
from bridge.settings.url import UpstreamUrl
from bridge.settings.values import ANY_PORT, Key

URL = 'url = "ws://127.0.0.1:4555"'


def test_every_key_and_its_default() -> None:
    everything = f"""
        [service]
        websocket = 4600
        websocket_token = {{ file = "/run/secrets/token" }}
        [defaults]
        scrollback = "64KiB"
        unix = true
        [consoles.vm1]
        {URL}
        raw = 4001
        pty = false
        scrollback = 1048576
        input = "direct"
        [consoles."vm.2-b_c"]
        {URL}
        raw = false
    """
    url = UpstreamUrl.parse("ws://127.0.0.1:4555")
    said = parse(everything, "f")
    assert said.defaults == {"scrollback": "64KiB", "unix": True}
    assert replace(said, defaults={}) == Configuration(
        ServiceSettings(4600, Path("/run/secrets/token")),
        [
            ConsoleSettings(
                "vm1", url, raw=4001, unix=True, pty=False, scrollback=1 << 20, input=Input.DIRECT
            ),
            ConsoleSettings("vm.2-b_c", url, raw=None, unix=True, scrollback=1 << 16),
        ],
    )
    assert parse("", "f") == Configuration(ServiceSettings(websocket=None), [])
    assert parse('[service]\nwebsocket = "auto"', "f").service.websocket == ANY_PORT
    home = parse('[service]\nwebsocket_token = { file = "~/t" }', "f").service.websocket_token
    assert home == Path.home() / "t"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "f: x: unknown key; allowed: service, defaults, consoles"),
        ("service = 1", "f: service: found 1; allowed: a table"),
        (
            "[service]\nraw = 1",
            "f: service.raw: unknown key; allowed: websocket, discover, websocket_token",
        ),
        ("[service]\nwebsocket = true", "f: service.websocket: found true; allowed: a port from 1"),
        *(
            (
                f"[service]\nwebsocket_token = {wrong}",
                "f: service.websocket_token: found %s; allowed: { file = " % found,
            )
            for wrong, found in (
                ('"hunter2"', "a string"),
                ('{ file = "relative" }', "a table"),
                ('{ file = "/x", more = 1 }', "a table"),
                ('{ file = "/\\u0000" }', "a table"),
            )
        ),
        (
            f"[service]\nwebsocket = 4001\n[consoles.a]\n{URL}\nraw = 4001",
            "f: console 'a' and the websocket both want port 4001",
        ),
        ("= 1", "f: not TOML: "),
        ("a = " + 20_000 * "[", "f: not TOML: "),
        (3_000 * "a." + "a = 1", "f: a: unknown key"),
        ("[defaults]\nscrollback = -9223372036854775808", "f: defaults.scrollback: found -9"),
        ("a = " + 5_000 * "9", "f: not TOML: "),
        (f"[consoles.vm]\nurl = 0x{5_000 * 'f'}", "f: not TOML: a number beyond 64 bits"),
        ("[defaults]\na = [{ b = 9223372036854775808 }]", "f: not TOML: a number beyond 64 bits"),
        ("consoles = 3", "f: consoles: found 3; allowed: tables"),
        ("[consoles]\nvm = 1", "f: consoles.vm: found 1; allowed: a table"),
        ("[consoles.vm]", "f: consoles.vm.url: missing; allowed: ws://"),
        (f"[consoles.'-a']\n{URL}", "f: consoles.'-a': not a name; allowed: 1 to 64 of"),
        (f"[consoles.vm]\n{URL}\nRAW = 1", "f: consoles.vm.RAW: unknown key; allowed: url, raw,"),
        (f"[defaults]\n{URL}", "f: defaults.url: unknown key; allowed: unix"),
        ("[defaults]\nraw = 1", "f: defaults.raw: unknown key"),
        (f"[consoles.vm]\n{URL}\nraw = 0", "f: consoles.vm.raw: found 0; allowed: a port from 1"),
        (f"[consoles.vm]\n{URL}\nraw = true", "f: consoles.vm.raw: found true; allowed: a port"),
        (f"[consoles.vm]\n{URL}\nraw = 65536", "f: consoles.vm.raw: found 65536; "),
        (f'[consoles.vm]\n{URL}\nraw = "4001"', 'f: consoles.vm.raw: found "4001"; '),
        (f"[consoles.vm]\n{URL}\npty = 1", "f: consoles.vm.pty: found 1; allowed: true or false"),
        ('[defaults]\nscrollback = "1MB"', 'f: defaults.scrollback: found "1MB"; allowed: a num'),
        ("[defaults]\nscrollback = 100", "f: defaults.scrollback: found 100; allowed: a number"),
        ("[defaults]\nscrollback = true", "f: defaults.scrollback: found true; allowed: a num"),
        ('[defaults]\ninput = "fast"', 'f: defaults.input: found "fast"; allowed: "auto" or '),
        ("[consoles.vm]\nurl = 5", "f: consoles.vm.url: found 5; allowed: ws://"),
        ('[consoles.vm]\nurl = "http://x"', "f: consoles.vm.url: 'http://x': scheme 'http' is"),
        (
            f"[consoles.a]\n{URL}\nraw = 4001\n[consoles.b]\n{URL}\nraw = 4001",
            "f: consoles 'a' and 'b' both want port 4001",
        ),
        (
            f"[consoles.a]\n{URL}\nraw = 4001\ntelnet = 4001",
            "f: console 'a' wants port 4001 twice",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "f")
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


WSS = '[consoles.vm]\nurl = "wss://h:1"'


def test_what_a_server_shows_and_wants_to_see() -> None:
    text = f"""
        [defaults]
        ca = "~/ca.pem"
        [consoles.vm1]
        url = "wss://h:1"
        cert = "/me.pem"
        key = "/me.key"
        pin = "{":".join(["0F"] * 32)}"
        headers = {{ X-One = "1", X-Two = {{ file = "~/two" }}, X-Three = {{ credential = "three" }} }}
        [consoles.vm2]
        {URL}
        [consoles.vm3]
        url = "tcp://h:1"
        [consoles.vm4]
        url = "tcp://h:1"
        input = "paced"
    """
    consoles = parse(text, "f").consoles
    assert consoles[0].access == Access(
        Path.home() / "ca.pem",
        Path("/me.pem"),
        Path("/me.key"),
        "0f" * 32,
        (
            ("X-One", Plain("1")),
            ("X-Two", SecretFile(Path.home() / "two")),
            ("X-Three", Credential("three")),
        ),
    )
    assert consoles[1].access == Access()  # a default that is not for its kind of URL
    assert [c.clocking.input for c in consoles] == [
        Input.AUTO,
        Input.AUTO,
        Input.DIRECT,
        Input.PACED,
    ]


@pytest.mark.parametrize(
    ("version", "clocking"),
    [
        ("7.2.22", Input.AUTO),
        ("8.2", Input.AUTO),
        ("9.0", Input.DIRECT),
        ("10.0", Input.DIRECT),
    ],
)
def test_auto_is_direct_where_qemu_loses_nothing(version: str, clocking: Input) -> None:
    text = f"""
        [defaults]
        qemu = "{version}"
        [consoles.auto]
        {URL}
        window = 1
        rate = 100
        [consoles.told]
        {URL}
        input = "echo"
    """
    auto, told = parse(text, "f").consoles
    assert auto.clocking == (clocking, 1, 100)
    assert told.clocking.input is Input.ECHO


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (f'[consoles.vm]\n{URL}\nca = "/x"', "ca: the URL is ws://; allowed with wss:// and tls"),
        (f'[consoles.vm]\n{URL}\npin = "{"0" * 64}"', "pin: the URL is ws://; allowed with"),
        (
            '[consoles.vm]\nurl = "unix:///x"\nheaders = {}',
            "headers: the URL is unix://; allowed with ws://",
        ),
        (f'{WSS}\nkey = "/x"', "key: given without cert"),
        (f'{WSS}\nca = "x.pem"', 'ca: found "x.pem"; allowed: an absolute path'),
        (f"{WSS}\nca = true", "ca: found true; allowed: an absolute path"),
        (f'{WSS}\npin = "abc"', 'pin: found "abc"; allowed: the SHA-256'),
        (f'{WSS}\nheaders = "hunter2"', "headers: not a table; allowed: a table of"),
        (f'{WSS}\nheaders = {{ "A b" = "x" }}', "headers: 'A b' is no name of a header"),
        (f'{WSS}\nheaders = {{ HOST = "x" }}', "headers: 'HOST' is the websocket's own"),
        (f'{WSS}\nheaders = {{ Sec-WebSocket-Key = "x" }}', "headers: 'Sec-WebSocket-Key' is"),
        (f'{WSS}\nheaders = {{ X = "x", x = "y" }}', "headers: 'x' is given twice"),
        (f'{WSS}\nheaders = {{ X = "hunter2\\r\\nY: 1" }}', "headers: X: not one line of"),
        (f'{WSS}\nheaders = {{ X = " hunter2" }}', "headers: X: not one line of"),
        (f"{WSS}\nheaders = {{ X = 1 }}", "headers: X: not understood; allowed: a table of"),
        (f'{WSS}\nheaders = {{ X = {{ file = "x" }} }}', "headers: X.file: not an absolute"),
        (f'{WSS}\nheaders = {{ X = {{ credential = "../x" }} }}', "headers: X.credential: not"),
        (f'{WSS}\nheaders = {{ X = {{ file = "/x", y = 1 }} }}', "headers: X: not understood"),
    ],
)
def test_what_is_wrong_about_tls_and_headers_is_named(lines: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(lines, "f")
    assert str(raised.value).startswith(f"f: consoles.vm.{message}")
    assert "hunter2" not in str(raised.value)


def test_a_header_is_not_in_a_representation() -> None:
    (console,) = parse(f'{WSS}\nheaders = {{ X = "hunter2" }}', "f").consoles
    assert "hunter2" not in repr(console)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        parse(text, "f")
    except ConfigError as error:
        assert str(error).isprintable()


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("file"), inner),
    max_leaves=5,
)


@given(st.sampled_from([*KEYS.values(), *SERVICE_KEYS.values()]), VALUES)
def test_any_value_of_a_key_is_read_or_refused(key: Key, value: object) -> None:
    with contextlib.suppress(ValueError, BridgeError):
        key.parse(value)


def test_a_missing_unreadable_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "binary")


def test_consoles_of_the_command_line() -> None:
    words = ["ws://127.0.0.1:4555", "vm=ws://h:1/x?a=b", "ws+unix:///run/vm/two.sock"]
    assert [c.name for c in from_arguments(words)] == ["127.0.0.1-4555", "vm", "two.sock"]
    for bad in ("vm=", "vm", "=ws://h:1", "a/b=ws://h:1"):
        with pytest.raises(UsageError):
            check_unique(from_arguments([bad]))


def test_ports_of_the_command_line_count_up_where_none_is_set() -> None:
    text = f"[consoles.a]\n{URL}\n[consoles.b]\n{URL}\nraw = 9\n[consoles.c]\n{URL}"
    consoles = parse(text, "f").consoles
    assert [c.raw for c in with_ports(consoles, raw=4001)] == [4001, 9, 4002]
    assert [c.raw for c in with_ports(consoles, raw=0)] == [None, 9, None]
    assert [c.raw for c in with_ports(consoles)] == [0, 9, 0]
    with pytest.raises(UsageError, match="above 65535"):
        with_ports(consoles, raw=65535)
    # Neighbours do not meet.
    three = with_ports(consoles, raw=8, telnet=10)
    assert [(c.raw, c.telnet) for c in three] == [(8, 10), (9, 12), (11, 13)]
    assert [c.raw for c in with_ports(consoles, raw=4001, websocket=4002)] == [4001, 9, 4003]


def test_names_and_ports_are_given_once() -> None:
    one, two = from_arguments(["vm=ws://h:1", "vm=ws://h:2"])
    with pytest.raises(UsageError, match="two consoles are named 'vm'"):
        check_unique([one, two])


def test_the_link_of_a_readonly_pty_is_no_other_console_s() -> None:
    url = UpstreamUrl.parse("ws://h:1")
    one, two = ConsoleSettings("a", url, pty_readonly=True), ConsoleSettings("a.ro", url)
    for both in ([one, two], [two, one]):
        with pytest.raises(
            UsageError, match=r"'a\.ro' is a console's name and the link of another"
        ):
            check_unique(both)
    check_unique([replace(one, pty_readonly=False), two])
