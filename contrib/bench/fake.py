"""A fast fake of QEMU's websocket chardev, with a guest behind it: the far end of all parts.

    python fake.py [COUNT]      prints COUNT ports, one a line; serves one client after the
                                other on each

The guest echoes each byte in a frame of its own, as QEMU's UART sends it (82 01, the byte),
and obeys one command, a line that ends with CR:

    flood SIZE COUNT            prints COUNT bytes in frames of SIZE, byte n being n modulo
                                251, and then a byte of 254

Faster than every client: the frames are made beforehand and sent with blocking calls of a
megabyte each.  ``tests/test_bench.py`` compares the echo's frames with the real QEMU's.
"""

import base64
import hashlib
import re
import socket
import struct
import sys
import threading

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
PERIOD = 251  # a prime: lost bytes shift the pattern; and 255, telnet's IAC, is not in it
PATTERN = bytes(range(PERIOD))
END = b"\xfe"
BLOCK = 1 << 20  # bytes of payload made beforehand, about


def frame(payload: bytes) -> bytes:
    """As QEMU's: final, binary, unmasked; a header of two bytes, or four from 126 on."""
    if len(payload) < 126:
        return struct.pack("!BB", 0x82, len(payload)) + payload
    return struct.pack("!BBH", 0x82, 126, len(payload)) + payload


def flood(client: socket.socket, size: int, count: int) -> None:
    """Send ``count`` bytes of the pattern in frames of ``size``, the last one shorter."""
    text = PATTERN * size  # whole frames, and the whole pattern some times over
    times = BLOCK // len(text) or 1
    one = b"".join(frame(text[at : at + size]) for at in range(0, len(text), size))
    block, wire = memoryview(one * times), len(one) // PERIOD
    blocks, rest = divmod(count, len(text) * times)
    for _ in range(blocks):
        client.sendall(block)
    whole, odd = divmod(rest, size)
    client.sendall(block[: whole * wire])
    if odd:
        start = whole * size % len(text)
        client.sendall(frame(text[start : start + odd]))
    client.sendall(frame(END))


def handshake(client: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        more = client.recv(4096)
        if not more:
            raise ConnectionError
        request += more
    key = re.search(rb"Sec-WebSocket-Key: *(\S+)", request, re.IGNORECASE)
    assert key is not None
    accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())  # noqa: S324 (the RFC's)
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
    )


class Guest:
    """Echoes, and obeys."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._line = b""

    def receive(self, data: bytes) -> None:
        self._client.sendall(b"".join(b"\x82\x01%c" % byte for byte in data))
        self._line += data
        while b"\r" in self._line:
            line, _, self._line = self._line.partition(b"\r")
            if command := re.fullmatch(rb"flood (\d+) (\d+)", line):
                flood(self._client, int(command[1]), int(command[2]))


def serve(client: socket.socket) -> None:
    """Take frames of up to 64 KiB until the client ends or closes."""
    guest = Guest(client)
    buffer = b""
    while data := client.recv(1 << 16):
        buffer += data
        while (size := frame_size(buffer)) <= len(buffer):
            opcode, payload = buffer[0] & 0x0F, unmask(buffer[:size])
            buffer = buffer[size:]
            match opcode:
                case 2:
                    guest.receive(payload)
                case 9:  # some libraries give up on a server that does not answer
                    client.sendall(struct.pack("!BB", 0x8A, len(payload)) + payload)
                case 8:
                    return


def frame_size(buffer: bytes) -> int:
    """Of the masked frame at the start, or what is needed to know."""
    if len(buffer) < 4:
        return 4
    length = buffer[1] & 0x7F
    assert length < 127
    return 8 + int.from_bytes(buffer[2:4], "big") if length == 126 else 6 + length


def unmask(whole: bytes) -> bytes:
    at = 4 if whole[1] & 0x7F < 126 else 6
    body, key = whole[at + 2 :], whole[at - 2 : at + 2]
    return bytes(byte ^ key[i & 3] for i, byte in enumerate(body))


def listen(listener: socket.socket) -> None:
    while True:
        client, _ = listener.accept()
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                handshake(client)
                serve(client)
            except OSError:
                continue  # the client has gone; the next one


def main() -> None:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
    for listener in listeners:
        threading.Thread(target=listen, args=(listener,)).start()
        print(listener.getsockname()[1], flush=True)


if __name__ == "__main__":
    main()
