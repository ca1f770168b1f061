"""The obvious pump on websockets.trio: python pump_websockets_trio.py PORT URL."""

import sys

import trio
from websockets.trio.client import connect
from websockets.typing import Subprotocol


async def main(port: int, url: str) -> None:
    async def serve(client: trio.SocketStream) -> None:
        async with connect(url, subprotocols=[Subprotocol("binary")]) as vm:
            async with trio.open_nursery() as nursery:

                async def up() -> None:
                    async for data in client:
                        await vm.send(data)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(up)
                async for message in vm:
                    assert isinstance(message, bytes)
                    await client.send_all(message)

    await trio.serve_tcp(serve, port, host="127.0.0.1")


trio.run(main, int(sys.argv[1]), sys.argv[2])
