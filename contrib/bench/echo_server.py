"""A websocket console as fast as Python can be one: the far end of the benchmark.

    python echo_server.py        prints its port, then serves clients, one after the other

Returns each byte received as a frame of its own, as QEMU's UART does with an echoing
guest.  Blocking and single: nothing between the two system calls but the unmasking.
"""

import base64
import hashlib
import re
import socket

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


def handshake(client: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += client.recv(4096)
    key = re.search(rb"Sec-WebSocket-Key: *(\S+)", request, re.IGNORECASE)
    assert key is not None
    accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())  # noqa: S324 (the RFC's)
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
    )


def echo(client: socket.socket) -> None:
    """Frames of less than 126 bytes, one or more a read, never cut (loopback, one send each)."""
    while data := client.recv(4096):
        at, reply = 0, b""
        while at < len(data):
            length, mask = data[at + 1] & 0x7F, data[at + 2 : at + 6]
            if data[at] & 0x0F == 8:
                return
            for i in range(length):
                reply += b"\x82\x01" + bytes([data[at + 6 + i] ^ mask[i % 4]])
            at += 6 + length
        client.sendall(reply)


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            with client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                handshake(client)
                echo(client)


if __name__ == "__main__":
    main()
