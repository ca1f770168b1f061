"""The few bytes of D-Bus that a question to systemd takes (D-Bus Specification, version 1).

Owns the form of a method call and the reading of what comes back.  No client library: two
words are asked of one peer that is always the same program, once in a service's life.

Pure.  Little-endian is what we write; either is read.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

# Strings and object paths, numbers, arrays, structures; a variant is what is in it.
Value: TypeAlias = "str | int | float | bool | list[Value] | tuple[Value, ...]"

# The specification's limit is 128 MiB; systemd's answers to us, and the signals between
# them, have a few hundred bytes.
MAX_MESSAGE = 1 << 20

_FIXED_HEADER = 16  # up to and with the length of the array of fields
_BASIC = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "b": "I"}
_ALIGNMENT = {"g": 1, "v": 1, "s": 4, "o": 4, "a": 4, "(": 8, "{": 8}
_CLOSING = {"(": ")", "{": "}"}
# "Header Fields": their codes.
_PATH, _INTERFACE, _MEMBER, _REPLY_SERIAL, _SIGNATURE = 1, 2, 3, 5, 8


class MalformedError(Exception):
    """Bytes that are no D-Bus message of a size and a kind that we read."""


class Kind(IntEnum):
    CALL = 1
    RETURN = 2
    ERROR = 3
    SIGNAL = 4


@dataclass(frozen=True, slots=True)
class Message:
    kind: int
    reply_to: int | None
    """The serial of the call that this answers."""
    body: tuple[Value, ...]


def auth_external(uid: int) -> bytes:
    """What a client says first ("SASL profile", EXTERNAL).

    In one go, as systemd's own clients do; the server answers a line that begins with OK.
    """
    return b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\nBEGIN\r\n"


def method_call(
    serial: int, path: str, interface: str, member: str, *arguments: str | int
) -> bytes:
    """A call without a destination, for a peer without a bus between; texts and uint32s."""
    signature = "".join("s" if isinstance(a, str) else "u" for a in arguments)
    fields = [
        (_PATH, "o", path),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", member),
        (_SIGNATURE, "g", signature),
    ]
    header = bytearray()
    for code, kind, value in fields:
        _pad(header, 8)
        header += bytes((code, 1)) + kind.encode() + b"\0"
        _put(header, kind, value)
    body = bytearray()
    for kind, argument in zip(signature, arguments, strict=True):
        _put(body, kind, argument)
    message = bytearray(
        struct.pack("<cBBBIII", b"l", Kind.CALL, 0, 1, len(body), serial, len(header))
    )
    message += header
    _pad(message, 8)
    return bytes(message + body)


def parse(data: bytes) -> tuple[Message, int] | None:
    """The first message in ``data`` and its length; None if it is not all there.

    Raises MalformedError.
    """
    if len(data) < _FIXED_HEADER:
        return None
    order = {0x6C: "<", 0x42: ">"}.get(data[0])
    if order is None or data[3] != 1:
        raise MalformedError("no D-Bus message, version 1")
    body_size, _, fields_size = struct.unpack_from(f"{order}III", data, 4)
    body_at = _FIXED_HEADER + fields_size + 7 & ~7
    size = body_at + body_size
    if size > MAX_MESSAGE:
        raise MalformedError(f"a message of {size} bytes")
    if len(data) < size:
        return None
    try:
        fields = _fields(data[:body_at], order)
        signature, reply_to = fields.get(_SIGNATURE, ""), fields.get(_REPLY_SERIAL)
        if not isinstance(signature, str) or isinstance(reply_to, str):
            raise ValueError("a header field of the wrong type")
        body = _Reader(data[body_at:size], 0, order).all(signature)
    except (struct.error, IndexError, ValueError, KeyError, RecursionError) as error:
        raise MalformedError(str(error)) from error
    return Message(data[1], reply_to, body), size


def _fields(header: bytes, order: str) -> dict[int, str | int]:
    """The header's fields by their codes; those that we know are texts and numbers."""
    reader = _Reader(header, _FIXED_HEADER - 4, order)  # an array begins with its length
    fields = {}
    for field in reader.array("(yv)"):
        match field:
            case (int(code), str() | int() as value):
                fields[code] = value
    return fields


def _pad(data: bytearray, to: int) -> None:
    data += bytes(-len(data) % to)


def _put(data: bytearray, kind: str, value: str | int) -> None:
    if isinstance(value, int):
        _pad(data, 4)
        data += struct.pack("<I", value)
        return
    text = value.encode()
    if kind == "g":
        data.append(len(text))
    else:
        _pad(data, 4)
        data += struct.pack("<I", len(text))
    data += text + b"\0"


class _Reader:
    """Values, one after the other, each aligned as its type wants it."""

    def __init__(self, data: bytes, at: int, order: str) -> None:
        self._data, self._at, self._order = data, at, order

    def all(self, signature: str) -> tuple[Value, ...]:
        values = []
        while signature:
            kind, signature = _first(signature)
            values.append(self.value(kind))
        return tuple(values)

    def value(self, kind: str) -> "Value":
        """One value of the complete type ``kind``."""
        match kind[0]:
            case "s" | "o":
                return self._text(self._number("u"))
            case "g":
                return self._text(self._number("y"))
            case "v":
                inner, rest = _first(self._text(self._number("y")))
                if rest:
                    raise ValueError(f"a variant of several types, {inner}{rest}")
                return self.value(inner)
            case "(" | "{":
                self._align(8)
                return self.all(kind[1:-1])
            case "a":
                return self.array(kind[1:])
            case basic:
                return self._number(basic)

    def array(self, element: str) -> list[Value]:
        size = self._number("u")
        self._align(_alignment(element[0]))
        end = self._at + size
        if end > len(self._data):
            raise ValueError("an array longer than its message")
        values = []
        while self._at < end:
            values.append(self.value(element))
        return values

    def _number(self, kind: str) -> int:
        layout = self._order + _BASIC[kind]
        self._align(struct.calcsize(layout))
        (number,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return number  # type: ignore[no-any-return]

    def _text(self, size: int) -> str:
        text = self._data[self._at : self._at + size]
        if len(text) < size:
            raise ValueError("a text longer than its message")
        self._at += size + 1  # and the NUL
        return text.decode()

    def _align(self, to: int) -> None:
        self._at += -self._at % to


def _alignment(code: str) -> int:
    return _ALIGNMENT.get(code) or struct.calcsize("=" + _BASIC[code])


def _first(signature: str) -> tuple[str, str]:
    """The first complete type of a signature, and the rest."""
    code = signature[0]
    if code == "a":
        element, rest = _first(signature[1:])
        return "a" + element, rest
    if code not in _CLOSING:
        return code, signature[1:]
    at = 1
    while signature[at] != _CLOSING[code]:
        at += len(_first(signature[at:])[0])
    if at == 1:
        raise ValueError("a structure of nothing")  # an array of them would never end
    return signature[: at + 1], signature[at + 1 :]
