"""The built-in console: a websocket server with the habits of QEMU's chardev.

One client at a time: it alone is accepted, the others wait in the kernel's queue,
connected and unanswered.  One byte of output a frame.  The end of the VM is a bare end of
stream.  The demo bridges it by the very code that bridges QEMU, and the tests hold it to
the same cases as the real one.
"""

import socket

import trio
from trio_websocket import (
    ConnectionClosed,
    HandshakeError,
    WebSocketConnection,
    wrap_server_stream,
)

from bridge.service.guest import Guest


class ConsoleServer:
    """Serves one guest at ``url``; listening from birth, answering in ``run``."""

    def __init__(self, guest: Guest, port: int = 0) -> None:
        # QEMU's backlog is 1, with which Linux queues two clients.
        listener = socket.create_server(("127.0.0.1", port), backlog=1)
        listener.setblocking(False)
        self._listener = trio.socket.from_stdlib_socket(listener)
        self._guest = guest
        # What the guest is printing; it is in the midst of it when a client leaves.
        self._output = guest.boot()
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def run(self) -> None:
        """Serve one client after the other; the guest boots as the first one comes."""
        with self._listener:
            while True:
                connection, _ = await self._listener.accept()
                await self._serve(trio.SocketStream(connection))

    async def _serve(self, stream: trio.SocketStream) -> None:
        async with stream, trio.open_nursery() as nursery:
            try:
                request = await wrap_server_stream(nursery, stream)
                if request.path != "/":
                    await request.reject(404)
                    return
                # Accepted with `binary`, and with no subprotocol at all.
                binary = "binary" if "binary" in request.proposed_subprotocols else None
                client = await request.accept(subprotocol=binary)
                while True:
                    await self._print(client)
                    message = await client.get_message()
                    data = message.encode() if isinstance(message, str) else message
                    self._output = self._guest.receive(data)
            except (ConnectionClosed, HandshakeError, trio.BrokenResourceError):
                pass  # the client has left; the guest goes on
            finally:
                nursery.cancel_scope.cancel()

    async def _print(self, client: WebSocketConnection) -> None:
        for piece in self._output:
            for byte in piece:
                await client.send_message(bytes([byte]))
