"""Settings: from TOML or the command line to frozen records.  Strict; reads one file.

KEYS is the one table of what a console may be told, SERVICE_KEYS of what the service may:
how a value is read, what is allowed (in errors and in the README).  What it is when absent
stands in the record.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

from bridge.base.errors import BridgeError, ConfigError, UsageError
from bridge.base.printable import printable
from bridge.console.manners import MAX_REPLAY, Kind, Manners
from bridge.console.pacing import MAX_RATE, RATE, WINDOW, Clocking, Input
from bridge.console.scrollback import MAX_CAPACITY, MIN_CAPACITY
from bridge.settings import toml
from bridge.settings.access import (
    ALLOWED_HEADERS,
    ALLOWED_PATH,
    ALLOWED_PIN,
    Access,
    parse_headers,
    parse_path,
    parse_pin,
)
from bridge.settings.monitor import ALLOWED_ADDRESS, Address, parse_address
from bridge.settings.url import ALLOWED as ALLOWED_URL
from bridge.settings.url import Inner, UpstreamUrl, url_meant
from bridge.settings.values import (
    ANY_PORT,
    Key,
    Version,
    boolean,
    file,
    number,
    port,
    shown,
    size,
    version,
)

ALLOWED_NAME = "1 to 64 of A-Z a-z 0-9 . _ - of which the first is a letter or digit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


# A log's file is not rotated amid what is written at once, nor compressed for minutes.
MIN_LOG, MAX_LOG = 64 << 10, 1 << 30
MAX_KEPT = 1000

# From here on QEMU's websocket takes no more than the guest reads (commit 038b4217884c).
LOSSLESS_QEMU = (9, 0)


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """All there is to say about one console."""

    name: str
    url: UpstreamUrl
    raw: int | None = ANY_PORT
    """A port, ANY_PORT, or None for no raw port."""
    telnet: int | None = ANY_PORT
    """The same for the telnet port."""
    unix: bool = False
    pty: bool = True
    pty_readonly: bool = False
    raw_readonly: int | None = None
    scrollback: int = 1 << 20
    replay: int | None = None
    """Bytes shown to who attaches; None: as the endpoint's kind has it."""
    notices: bool | None = None
    """The same for notices."""
    log: bool = False
    log_size: int = 10 << 20
    """A log file of this size is rotated."""
    log_keep: int = 5
    """How many rotated ones are kept."""
    input: Input = Input.AUTO
    window: int = WINDOW
    rate: int = RATE
    qemu: Version | None = None
    """The server's version, where it is known."""
    upstream: Inner = Inner.PLAIN
    qmp: Address | None = None
    """Where the machine's QMP is."""
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The table of TOML that says all of this, but for ports of the command line."""
    access: Access = field(default_factory=Access)

    @property
    def clocking(self) -> Clocking:
        """How input is clocked; ``auto`` as it is meant for this upstream."""
        lossless = self.url.lossless or (self.qemu is not None and self.qemu >= LOSSLESS_QEMU)
        chosen = Input.DIRECT if self.input is Input.AUTO and lossless else self.input
        return Clocking(chosen, self.window, self.rate)

    def manners(self, kind: Kind, *, writable: bool = True) -> Manners:
        """How those are treated who attach by an endpoint of ``kind``."""
        return Manners.of(kind, replay=self.replay, notices=self.notices, writable=writable)


def is_lossless(version: str | None) -> bool:
    """Does a QEMU that calls itself ``version`` take no more than the guest reads?"""
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= LOSSLESS_QEMU


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """All there is to say about the service as a whole."""

    websocket: int | None = None
    """A port for all consoles by websocket, ANY_PORT, or None for none."""
    websocket_token: Path | None = None
    """The file that holds the token; None: one is made."""
    discover: bool = False
    """Bridge the consoles of the user's VMs as they come and go."""
    source: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The table of TOML that says all of this."""

    def differences(self, other: "ServiceSettings") -> list[str]:
        """The keys whose values differ."""
        return [key for key in SERVICE_KEYS if getattr(self, key) != getattr(other, key)]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a configuration file says."""

    service: ServiceSettings = ServiceSettings()
    consoles: list[ConsoleSettings] = field(default_factory=list)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The table of defaults, as it stands there."""


_ALLOWED_PORT = 'a port from 1 to 65535, "auto" (a free one; also when absent) or false'
_ALLOWED_PORT_OFF = 'a port from 1 to 65535, "auto" or false'

KEYS: Mapping[str, Key] = {
    "url": Key(UpstreamUrl.parse, ALLOWED_URL, in_defaults=False),
    "raw": Key(port, _ALLOWED_PORT, in_defaults=False),
    "telnet": Key(port, _ALLOWED_PORT, in_defaults=False),
    "unix": Key(boolean, "true or false"),
    "pty": Key(boolean, "true or false"),
    "pty_readonly": Key(boolean, "true or false"),
    "raw_readonly": Key(port, _ALLOWED_PORT_OFF, in_defaults=False),
    "scrollback": Key(
        size(MIN_CAPACITY, MAX_CAPACITY),
        'a number of bytes or "64KiB", "1MiB": from 4096 bytes to 1 GiB',
    ),
    "replay": Key(size(0, MAX_REPLAY), 'a number of bytes or "16KiB": from 0 (none) to 256 KiB'),
    "notices": Key(boolean, "true or false"),
    "log": Key(boolean, "true or false"),
    "log_size": Key(size(MIN_LOG, MAX_LOG), 'a number of bytes or "10MiB": from 64 KiB to 1 GiB'),
    "log_keep": Key(number(0, MAX_KEPT), f"a number from 0 to {MAX_KEPT}"),
    "input": Key(Input, " or ".join(f'"{choice.value}"' for choice in Input)),
    "window": Key(number(1, WINDOW), f"a number of bytes from 1 to {WINDOW}"),
    "rate": Key(number(1, MAX_RATE), f"bytes per second, from 1 to {MAX_RATE}"),
    "qemu": Key(version, 'a version, as "10.0" or "7.2.22"'),
    "upstream": Key(Inner, " or ".join(f'"{choice.value}"' for choice in Inner)),
    "qmp": Key(parse_address, ALLOWED_ADDRESS, in_defaults=False),
    "ca": Key(parse_path, ALLOWED_PATH),
    "cert": Key(parse_path, ALLOWED_PATH),
    "key": Key(parse_path, ALLOWED_PATH),
    "pin": Key(parse_pin, ALLOWED_PIN),
    "headers": Key(parse_headers, ALLOWED_HEADERS),
}

# Which keys make sense with which URLs; together they are a console's Access.
_ACCESS: Mapping[str, tuple[Callable[[UpstreamUrl], bool], str]] = {
    **dict.fromkeys(("ca", "cert", "key", "pin"), (lambda url: url.tls, "wss:// and tls://")),
    "headers": (lambda url: url.websocket, "ws://, wss:// and ws+unix://"),
}

_DEFAULTS_KEYS = {name: key for name, key in KEYS.items() if key.in_defaults}

SERVICE_KEYS: Mapping[str, Key] = {
    "websocket": Key(port, _ALLOWED_PORT_OFF),
    "discover": Key(boolean, "true or false"),
    "websocket_token": Key(
        file, '{ file = "/path" }, absolute or beginning with "~/"', secret=True
    ),
}


def load(path: Path) -> Configuration:
    """Read a configuration file; raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Configuration:
    """Read the text of a configuration file; errors name ``source`` and the key."""
    document = toml.read(text, source)
    try:
        return _document(document)
    except BridgeError as error:
        raise ConfigError(f"{source}: {error}") from None


def console(name: str, table: object, defaults: Mapping[str, Any] | None = None) -> ConsoleSettings:
    """Read one console's table of keys, as a configuration file has it; raises ConfigError.

    ``defaults`` is the file's table of that name.
    """
    own = _table(table, "settings", KEYS)
    if "url" not in own:
        raise ConfigError(f"settings.url: missing; allowed: {ALLOWED_URL}")
    assert isinstance(table, dict)
    defaults = dict(defaults or {})
    others = _table(defaults, "defaults", _DEFAULTS_KEYS)
    return _settings(_name(name), "settings", others, own, defaults | table)


def service(table: object) -> ServiceSettings:
    """Read the service's table of keys; raises ConfigError."""
    values = _table(table, "service", SERVICE_KEYS)
    assert isinstance(table, dict)
    return ServiceSettings(**values, source=table)


def from_arguments(arguments: Iterable[str]) -> list[ConsoleSettings]:
    """Read ``URL`` and ``NAME=URL`` words; raises UsageError."""
    consoles = []
    for word in arguments:
        name, equals, url = word.partition("=")
        named = equals and "://" not in name
        if not equals and "://" not in word:
            raise UsageError(f"console '{printable(word)}': no URL; {url_meant(word)}")
        try:
            address = UpstreamUrl.parse(url if named else word)
            own_name = _name(name if named else address.default_name)
            consoles.append(ConsoleSettings(own_name, address, source={"url": str(address)}))
        except BridgeError as error:
            raise UsageError(f"console {error}") from None
    return consoles


# The settings that are ports.
PORTS = ("raw", "telnet", "raw_readonly")


def with_ports(
    consoles: Iterable[ConsoleSettings],
    *,
    raw: int | None = None,
    telnet: int | None = None,
    websocket: int | None = None,
) -> list[ConsoleSettings]:
    """Give out --raw PORT, --telnet PORT and their successors where no port was set.

    0 takes the port away.  Successors pass over what others want, the ``websocket`` too.
    """
    result = list(consoles)
    taken = {getattr(console, key) for console in result for key in PORTS}
    taken |= {raw, telnet, websocket}
    for key, first in (("raw", raw), ("telnet", telnet)):
        if first is not None:
            result = _count_up(result, key, first, taken)
            taken |= {getattr(console, key) for console in result}
    return result


def _count_up(
    consoles: Iterable[ConsoleSettings], key: str, first: int, taken: Collection[int | None]
) -> list[ConsoleSettings]:
    free = (port for port in count(first + 1) if port not in taken)
    ports = chain([first], free) if first else repeat(None)
    result = []
    for console in consoles:
        if getattr(console, key) != ANY_PORT:
            result.append(console)
            continue
        port = next(ports)
        if port is not None and port > 65535:
            raise UsageError(f"--{key} {first}: '{console.name}' would get a port above 65535")
        changes: dict[str, Any] = {key: port}
        result.append(replace(console, **changes))
    return result


def check_unique(
    consoles: Iterable[ConsoleSettings], service: ServiceSettings = ServiceSettings()
) -> None:
    """Raise UsageError where two consoles have the same name, or two endpoints the same port."""
    names: set[str] = set()
    linked: set[str] = set()  # in the runtime directory
    ports: dict[int, str] = {}
    for console in consoles:
        if console.name in names:
            raise UsageError(f"two consoles are named '{console.name}'; give each its own NAME=URL")
        names.add(console.name)
        links = {console.name} | ({f"{console.name}.ro"} if console.pty_readonly else set())
        if taken := sorted(links & linked):
            raise UsageError(
                f"'{taken[0]}' is a console's name and the link of another's read-only PTY;"
                " rename the console"
            )
        linked |= links
        for wanted in filter(None, (getattr(console, key) for key in PORTS)):
            if wanted == service.websocket:
                raise UsageError(
                    f"console '{console.name}' and the websocket both want port {wanted}"
                )
            if (other := ports.get(wanted)) == console.name:
                raise UsageError(f"console '{other}' wants port {wanted} twice")
            if other:
                raise UsageError(f"consoles '{other}' and '{console.name}' both want port {wanted}")
            ports[wanted] = console.name


def _document(document: dict[str, Any]) -> Configuration:
    _known(document, ("service", "defaults", "consoles"), "")
    settings = service(document.get("service", {}))
    defaults = _table(document.get("defaults", {}), "defaults", _DEFAULTS_KEYS)
    tables = document.get("consoles", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"consoles: found {shown(tables)}; allowed: tables [consoles.NAME]")
    consoles = []
    for name, table in tables.items():
        where = f"consoles.{printable(name)}"
        own = _table(table, where, KEYS)
        if "url" not in own:
            raise ConfigError(f"{where}.url: missing; allowed: {ALLOWED_URL}")
        source = document.get("defaults", {}) | table
        consoles.append(_settings(_name(name, "consoles."), where, defaults, own, source))
    check_unique(consoles, settings)
    return Configuration(settings, consoles, document.get("defaults", {}))


def _settings(
    name: str, where: str, defaults: dict[str, Any], own: dict[str, Any], source: dict[str, Any]
) -> ConsoleSettings:
    access = _access(defaults, own, where)
    others = {key: value for key, value in (defaults | own).items() if key not in _ACCESS}
    said = {key: value for key, value in source.items() if key in access or key in others}
    return ConsoleSettings(name=name, access=Access(**access), **others, source=said)


def _access(defaults: dict[str, Any], own: dict[str, Any], where: str) -> dict[str, Any]:
    """What of a console's keys is for its kind of URL.

    A default for another kind is for other consoles; a key of the console's own is an error.
    """
    url: UpstreamUrl = own["url"]
    values = {}
    for key, (fits, allowed) in _ACCESS.items():
        if not fits(url):
            if key in own:
                scheme = url.scheme.value
                raise ConfigError(f"{where}.{key}: the URL is {scheme}://; allowed with {allowed}")
        elif key in defaults | own:
            values[key] = (defaults | own)[key]
    if "key" in values and "cert" not in values:
        raise ConfigError(f"{where}.key: given without cert, the certificate that it belongs to")
    return values


def _table(table: object, where: str, keys: Mapping[str, Key]) -> dict[str, Any]:
    """The parsed values of one table."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: found {shown(table)}; allowed: a table")
    _known(table, keys, where)
    values = {}
    for name, value in table.items():
        try:
            values[name] = keys[name].parse(value)
        except ValueError:
            key = keys[name]
            found = "a string" if key.secret and isinstance(value, str) else shown(value)
            raise ConfigError(f"{where}.{name}: found {found}; allowed: {key.allowed}") from None
        except BridgeError as error:
            raise ConfigError(f"{where}.{name}: {error}") from None
    return values


def _known(table: Iterable[str], allowed: Iterable[str], where: str) -> None:
    known = list(allowed)
    for name in table:
        if name not in known:
            key = f"{where}.{printable(name)}" if where else printable(name)
            raise ConfigError(f"{key}: unknown key; allowed: {', '.join(known)}")


def _name(name: str, where: str = "") -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}'{printable(name)}': not a name; allowed: {ALLOWED_NAME}")
    return name
