"""A websocket console that never lets go: whoever leaves it waits as long as he will wait."""

import re
import socket
import threading
from typing import Self

from websockets.utils import accept_key

_ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: binary\r\n\r\n"
)


class Stubborn:
    """Serves every client and closes none; a context."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._listener.getsockname()[1]}"
        self._clients: list[socket.socket] = []
        self.left = threading.Event()
        """A client has begun to leave."""
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        for each in (self._listener, *self._clients):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # shut down
                return
            self._clients.append(client)
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        key = re.search(rb"(?i)Sec-WebSocket-Key: (\S+)", head)
        assert key is not None
        client.sendall(_ANSWER.format(accept_key(key[1].decode())).encode())
        while client.recv(4096):
            pass
        self.left.set()
