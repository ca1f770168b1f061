"""The files that ``access`` names, read: certificates into an SSLContext, headers' values.

Read anew for each connection, so that a renewed certificate or token is used without a
restart, and no secret is kept longer than it is needed.
"""

import os
import ssl
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from bridge.base.errors import BridgeError, ConfigError
from bridge.base.printable import printable
from bridge.settings.access import Access, Credential, Plain, SecretFile, Source, check_value
from bridge.settings.config import ConsoleSettings

# QEMU takes no more than 4096 bytes of request; others take some more.
MAX_VALUE = 8192


class CredentialError(BridgeError):
    """A file that does not do; the message begins with the setting's name."""

    def __init__(self, setting: str, what: Path | str, wrong: str) -> None:
        super().__init__(f"{setting}: {printable(str(what))}: {wrong}")


def check(consoles: Iterable[ConsoleSettings]) -> None:
    """Raise ConfigError if a file that a setting names would not do.

    What systemd hands over is left out: it is there only when systemd starts the service.
    """
    for console in consoles:
        try:
            if console.url.tls:
                tls_context(console.access)
            for name, source in console.access.headers:
                if not isinstance(source, Credential):
                    _value(name, source)
        except CredentialError as error:
            raise ConfigError(f"consoles.{console.name}.{error}") from None


def tls_context(access: Access) -> ssl.SSLContext:
    """What TLS wants; raises CredentialError."""
    # A client's: checks the authority, the time and the name; TLS 1.2 or newer.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if access.ca is not None:
        _require("ca", access.ca, "CERTIFICATE")
        try:
            context.load_verify_locations(access.ca)
        except ssl.SSLError as error:
            raise CredentialError("ca", access.ca, _reason(error)) from error
    elif access.pin is not None:
        # The one certificate that will do is known, so nobody need vouch for it.
        context = blind_context()
    else:
        context.load_default_certs()
    if access.cert is not None:
        _load_own(context, access.cert, access.key)
    return context


def blind_context() -> ssl.SSLContext:
    """One that takes any certificate, for those who look at it themselves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def header_values(access: Access) -> Iterator[tuple[str, str]]:
    """Name and value of each header; raises CredentialError."""
    for name, source in access.headers:
        yield name, _value(name, source)


def _load_own(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    setting, private = ("key", key) if key else ("cert", cert)
    _require("cert", cert, "CERTIFICATE")
    _require(setting, private, "PRIVATE KEY", secret=True)

    def passphrase() -> str:
        # Without this OpenSSL would ask the terminal, and wait.
        raise CredentialError(setting, private, "wants a passphrase, which nobody can give")

    try:
        context.load_cert_chain(cert, key, passphrase)
    except ssl.SSLError as error:
        what = (
            "is not that of the certificate"
            if error.reason == "KEY_VALUES_MISMATCH"
            else _reason(error)
        )
        raise CredentialError(setting, private, what) from error


def _require(setting: str, path: Path, what: str, *, secret: bool = False) -> None:
    """See that the file can be read and holds a PEM block of ``what``."""
    if f"{what}-----" not in _read(setting, path, secret=secret, limit=1 << 20):
        raise CredentialError(setting, path, f"holds no {what.lower()} in PEM form")


def _value(name: str, source: Source) -> str:
    setting = f"headers.{name}"
    match source:
        case Plain(value):
            return value
        case SecretFile(path):
            value = _read(setting, path, secret=True, limit=MAX_VALUE)
        case Credential(credential):
            directory = os.environ.get("CREDENTIALS_DIRECTORY")
            if directory is None:
                raise CredentialError(
                    setting,
                    credential,
                    "no such credential: not started by systemd with LoadCredential=",
                )
            path = Path(directory) / credential
            # systemd keeps it from others; its mode may show the mask of an access list.
            value = _read(setting, path, secret=False, limit=MAX_VALUE)
    value = value.removesuffix("\n").removesuffix("\r")
    try:
        check_value(value)
    except ValueError as error:
        raise CredentialError(setting, path, str(error)) from None
    return value


def _read(setting: str, path: Path, *, secret: bool, limit: int) -> str:
    """The text of a file; of a secret one only if nobody else may read it."""
    try:
        # Non-blocking: the path may be a pipe's.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise CredentialError(setting, path, "not a file")
            if secret and status.st_mode & 0o077:
                raise CredentialError(
                    setting,
                    path,
                    f"others may read it (mode {status.st_mode & 0o777:04o}); chmod 600 it",
                )
            data = file.read(limit + 1)
    except OSError as error:
        raise CredentialError(setting, path, os.strerror(error.errno or 0).lower()) from error
    if len(data) > limit:
        raise CredentialError(setting, path, f"longer than {limit} bytes")
    return data.decode("latin-1")  # PEM and headers are ASCII; check_value refuses the rest


def _reason(error: ssl.SSLError) -> str:
    return f"cannot be used ({(error.reason or 'unknown reason').lower().replace('_', ' ')})"
