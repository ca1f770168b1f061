"""D-Bus messages as the other end writes them, laid out by hand from the specification."""

import struct


def reply(kind: int, serial: int, signature: str, body: bytes, order: str = "<") -> bytes:
    """An answer to the call ``serial``."""
    fields = struct.pack(f"{order}BB2sI", 5, 1, b"u\0", serial)
    fields += struct.pack("BB2sB", 8, 1, b"g\0", len(signature)) + signature.encode() + b"\0"
    mark = b"l" if order == "<" else b"B"
    head = struct.pack(f"{order}cBBBIII", mark, kind, 1, 1, len(body), 99, len(fields))
    return head + fields + bytes(-len(head + fields) % 8) + body
