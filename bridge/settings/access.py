"""What a server must show us, and what it wants to see of us: settings.  Pure.

Certificates, pins and request headers as the user wrote them.  ``credentials`` reads the
files that they name.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from bridge.base.errors import ConfigError
from bridge.base.printable import printable

ALLOWED_PATH = 'an absolute path, or one that begins with "~/", of a file in PEM form'
ALLOWED_PIN = (
    "the SHA-256 of the server's certificate: 64 hexadecimal digits, with or without colons"
)
ALLOWED_HEADERS = (
    'a table of NAME = "value", NAME = { file = "/path" }, NAME = { credential = "name" }'
)

# RFC 9110, 5.6.2 and 5.5; what is not ASCII means something else to each server.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
# Those that make the request a websocket's, or would make it another request.
_OWN = re.compile(
    r"host|upgrade|connection|content-length|transfer-encoding|sec-websocket-.*", re.IGNORECASE
)
_CREDENTIAL = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")


@dataclass(frozen=True, slots=True)
class Plain:
    """A value that stands in the configuration."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A value that is the one line of a file."""

    path: Path


@dataclass(frozen=True, slots=True)
class Credential:
    """A value that systemd hands over (LoadCredential= in systemd.exec(5))."""

    name: str


Source: TypeAlias = Plain | SecretFile | Credential


@dataclass(frozen=True, slots=True)
class Access:
    """See the module.  Without ``ca`` and ``pin`` the system's authorities are trusted."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    """None: in ``cert``, too."""
    pin: str | None = None
    headers: tuple[tuple[str, Source], ...] = ()


def parse_path(value: object) -> Path:
    """A path that means the same wherever the service is started; raises ValueError."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    path = Path(value)
    if value.startswith("~/"):
        with suppress(RuntimeError):  # no home is known: it stays relative
            path = path.expanduser()
    if not path.is_absolute():
        raise ValueError
    return path


def parse_pin(value: object) -> str:
    """64 lower-case digits; raises ValueError."""
    digits = value.replace(":", "").lower() if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError
    return digits


def parse_headers(value: object) -> tuple[tuple[str, Source], ...]:
    """Raises ConfigError, which never repeats a value: it may be a secret."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"not a table; allowed: {ALLOWED_HEADERS}")
    names: set[str] = set()
    for name in value:
        if not _TOKEN.fullmatch(name):
            raise ConfigError(f"'{printable(name)}' is no name of a header")
        if _OWN.fullmatch(name):
            raise ConfigError(f"'{name}' is the websocket's own; not allowed")
        if name.lower() in names:
            raise ConfigError(f"'{name}' is given twice")
        names.add(name.lower())
    return tuple((name, _source(name, what)) for name, what in value.items())


def check_value(value: str) -> None:
    """Raises ValueError for what cannot be a header's value; does not repeat it."""
    if not _VALUE.fullmatch(value):
        raise ValueError("not one line of printable ASCII without blanks around it")


def _source(name: str, what: object) -> Source:
    match what:
        case str():
            try:
                check_value(what)
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from None
            return Plain(what)
        case {"file": path, **others} if not others:
            try:
                return SecretFile(parse_path(path))
            except ValueError:
                raise ConfigError(
                    f'{name}.file: not an absolute path, nor one that begins with "~/"'
                ) from None
        case {"credential": str(credential), **others} if not others:
            if not _CREDENTIAL.fullmatch(credential):
                raise ConfigError(f"{name}.credential: not the name of a credential")
            return Credential(credential)
        case _:
            raise ConfigError(f"{name}: not understood; allowed: {ALLOWED_HEADERS}")
