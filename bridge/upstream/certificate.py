"""A server's certificate, read for what an error message should say of it.

Never judges: that is OpenSSL's part, which does not tell what it has seen.  Reads the few
fields of X.509 (RFC 5280, 4.1) out of DER (X.690).  Pure.
"""

import hashlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from bridge.base.printable import printable

_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_COMMON_NAME = bytes.fromhex("0603550403")  # 2.5.4.3
_ORGANISATION = bytes.fromhex("060355040a")  # 2.5.4.10
_ALT_NAME = bytes.fromhex("0603551d11")  # 2.5.29.17

Field = tuple[int, bytes]  # tag and content


@dataclass(frozen=True, slots=True)
class Certificate:
    """What it says of itself."""

    sha256: str
    names: tuple[str, ...]
    """The hosts it is for."""
    issuer: str
    since: datetime
    until: datetime

    @classmethod
    def parse(cls, der: bytes) -> "Certificate":
        """Raises ValueError for what is no certificate."""
        ((_, content),) = _fields(der)
        body = [field for field in _fields(_first(content)) if field[0] != _VERSION]
        _serial, _algorithm, (_, issuer), (_, validity), (_, subject), _key, *more = body
        since, until = map(_time, _fields(validity))
        return cls(
            sha256=hashlib.sha256(der).hexdigest(),
            # A name in the subject counts only where there are none of the other kind, and
            # for OpenSSL here not even then; still it tells whose this is.
            names=tuple(_alt_names(more)) or tuple(_values(subject, _COMMON_NAME)),
            issuer=", ".join(_values(issuer, _ORGANISATION, _COMMON_NAME)) or "nobody",
            since=since,
            until=until,
        )

    @property
    def period(self) -> str:
        return f"from {self.since:%Y-%m-%d %H:%M} to {self.until:%Y-%m-%d %H:%M} UTC"


def _fields(data: bytes) -> Iterator[Field]:
    """The fields in ``data`` one after the other; raises ValueError where one is cut off."""
    at = 0
    while at < len(data):
        tag, size, start = data[at], data[at + 1] if at + 1 < len(data) else 0x80, at + 2
        if size & 0x80:
            count = size & 0x7F
            if not 1 <= count <= 4:
                raise ValueError("not DER")
            size, start = int.from_bytes(data[start : start + count], "big"), start + count
        if start + size > len(data):
            raise ValueError("cut off")
        yield tag, data[start : start + size]
        at = start + size


def _first(data: bytes) -> bytes:
    """The content of the first field."""
    for _, content in _fields(data):
        return content
    raise ValueError("empty")


def _last(data: bytes) -> bytes:
    """The content of the last field."""
    *_, (_, content) = _fields(data)
    return content


def _time(field: Field) -> datetime:
    tag, text = field
    match tag:
        case 0x17:  # UTCTime: years 1950 to 2049
            century = b"20" if text[:2] < b"50" else b"19"
            text = century + text
        case 0x18:  # GeneralizedTime
            pass
        case _:
            raise ValueError("not a time")
    return datetime.strptime(text.decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _values(name: bytes, *kinds: bytes) -> Iterator[str]:
    """The parts of a distinguished name that are of one of ``kinds``."""
    for _, relative in _fields(name):
        for _, attribute in _fields(relative):
            if attribute.startswith(kinds):
                yield printable(_last(attribute))


def _alt_names(fields: list[Field]) -> Iterator[str]:
    """The DNS names and addresses of the extension subjectAltName (RFC 5280, 4.2.1.6)."""
    for tag, content in fields:
        if tag != _EXTENSIONS:
            continue
        for _, extension in _fields(_first(content)):
            if not extension.startswith(_ALT_NAME):
                continue
            for kind, name in _fields(_first(_last(extension))):
                if kind == _DNS_NAME:
                    yield printable(name)
                elif kind == _IP_ADDRESS:
                    yield str(ipaddress.ip_address(name))
