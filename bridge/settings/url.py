"""Where a console is, and what is spoken there: ``ws://HOST:PORT`` and its like.

Owns the syntax and the question "is it on this machine?", which decides how a missing
VM is waited for.  Knows nothing of connecting.
"""

import enum
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from bridge.base.errors import UrlError
from bridge.base.printable import printable

ALLOWED = (
    "ws://HOST:PORT, wss://HOST:PORT, ws+unix:///PATH, tcp://HOST:PORT, tls://HOST:PORT"
    " or unix:///PATH"
)

# sockaddr_un.sun_path holds 108 bytes with its final NUL (unix(7)).
MAX_UNIX_PATH = 107

# A path is bytes; those that are no UTF-8 are str as everywhere in Python (PEP 383).
_AS_PATHS = "surrogateescape"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host, as written or without the brackets of IPv6, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> frozenset[str]:
        """The numeric loopback addresses this may mean; empty for another machine.

        A name other than ``localhost`` counts as remote: whom it means can change.
        """
        if self.host.lower() == "localhost":
            return frozenset({"127.0.0.1", "::1"})
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            return frozenset()
        return frozenset({str(address)}) if address.is_loopback else frozenset()


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return self.path


class Scheme(enum.Enum):
    """A websocket, or the bytes as they are; over TCP, TLS or a Unix socket."""

    WS = "ws"
    WSS = "wss"
    WS_UNIX = "ws+unix"
    TCP = "tcp"
    TLS = "tls"
    UNIX = "unix"

    @property
    def without_websocket(self) -> str:
        """How the same address begins where no websocket is spoken."""
        return {"ws": "tcp", "wss": "tls", "ws+unix": "unix"}.get(self.value, self.value) + "://"

    @property
    def without_tls(self) -> str:
        """How the same address begins where no TLS is spoken."""
        return {"wss": "ws", "tls": "tcp"}.get(self.value, self.value) + "://"


class Inner(enum.Enum):
    """What is spoken within: the guest's bytes as they are, or telnet."""

    PLAIN = "plain"
    TELNET = "telnet"


_DEFAULT_PORT = {Scheme.WS: 80, Scheme.WSS: 443}


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """A parsed upstream URL.

    ``resource`` is the path and query of the HTTP request.  QEMU answers nothing but
    ``/``; other servers may want more.
    """

    text: str
    scheme: Scheme
    address: TcpAddress | UnixAddress
    resource: str = "/"

    def __str__(self) -> str:
        return self.text

    @property
    def tls(self) -> bool:
        return self.scheme in {Scheme.WSS, Scheme.TLS}

    @property
    def websocket(self) -> bool:
        return self.scheme in {Scheme.WS, Scheme.WSS, Scheme.WS_UNIX}

    @property
    def lossless(self) -> bool:
        """The server takes no more than the guest reads.

        A plain chardev of QEMU's does; its websocket reads all that it is sent, and until
        9.0 dropped what the guest had no room for.
        """
        return not self.websocket

    @classmethod
    def parse(cls, text: object) -> "UpstreamUrl":
        """Parse ``text``; raises UrlError with one line that quotes it."""
        if not isinstance(text, str):
            raise UrlError(f"found {text!r}; allowed: {ALLOWED}")
        try:
            return cls._parse(text)
        except ValueError as error:
            found = _without_userinfo(text)
            raise UrlError(f"'{printable(found)}': {error}; allowed: {ALLOWED}") from None

    @classmethod
    def _parse(cls, text: str) -> "UpstreamUrl":
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("holds characters other than printable ASCII; write them as %XX")
        parts = urlsplit(text)
        if "@" in parts.netloc:
            # Command lines and logs are read by others: no secret belongs in a URL.
            raise ValueError("a user name or password does not belong in the URL")
        if parts.fragment:
            raise ValueError("a #fragment means nothing here")
        try:
            scheme = Scheme(parts.scheme)
        except ValueError:
            known = f"scheme '{parts.scheme}' is not known" if parts.scheme else "has no scheme"
            raise ValueError(known) from None
        if scheme in {Scheme.WS_UNIX, Scheme.UNIX}:
            if parts.netloc or parts.query:
                raise ValueError("wants three slashes and an absolute path")
            return cls(text, scheme, _unix_address(unquote(parts.path, errors=_AS_PATHS)))
        address = _tcp_address(parts.hostname, parts.port, _DEFAULT_PORT.get(scheme))
        if scheme in _DEFAULT_PORT:
            query = f"?{parts.query}" if parts.query else ""
            return cls(text, scheme, address, (parts.path or "/") + query)
        if parts.path not in {"", "/"} or parts.query:
            raise ValueError("a path means nothing here")
        return cls(text, scheme, address)

    @property
    def reminder(self) -> str:
        """What to say besides where nothing is reached: which port a URL without one means."""
        port = _DEFAULT_PORT.get(self.scheme)
        unsaid = port is not None and urlsplit(self.text).port is None
        return f" (port {port}, for the URL names none)" if unsaid else ""

    @property
    def default_name(self) -> str:
        """The console's name where the user gave none."""
        match self.address:
            case TcpAddress(host, port):
                name = f"{host}-{port}"
            case UnixAddress(path):
                name = path.rstrip("/").rpartition("/")[2]
        name = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("-._")
        return name[:64] or "console"


def url_meant(word: str) -> str:
    """What may have been meant by ``word``, in which nothing of a URL is."""
    if re.fullmatch(r"[A-Za-z0-9.-]+:\d+", word):
        return f"ws://{word} is one"
    name = word if re.fullmatch(r"\w+", word, re.ASCII) else "NAME"
    return f"allowed: URL or NAME=URL, as {name}=ws://127.0.0.1:4555"


def _tcp_address(host: str | None, port: int | None, default: int | None) -> TcpAddress:
    if not host:
        raise ValueError("has no host")
    if not re.fullmatch(r"[A-Za-z0-9._:%-]+", host):
        raise ValueError("the host has characters that no host name has")
    if port == 0:
        raise ValueError("port 0 is nobody's")
    port = default if port is None else port
    if port is None:
        raise ValueError("has no port")
    return TcpAddress(host, port)


def _unix_address(path: str) -> UnixAddress:
    if "\0" in path:
        raise ValueError("a path holds no NUL")
    if not path.startswith("/") or path.endswith("/"):
        raise ValueError("wants an absolute path to a socket")
    if len(path.encode(errors=_AS_PATHS)) > MAX_UNIX_PATH:
        raise ValueError(f"the path is longer than the {MAX_UNIX_PATH} bytes a socket's may have")
    return UnixAddress(path)


def _without_userinfo(text: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", text)
