"""The obvious pump on trio-websocket: python pump_trio_websocket.py PORT URL."""

import sys

import trio
from trio_websocket import open_websocket_url


async def main(port: int, url: str) -> None:
    async def serve(client: trio.SocketStream) -> None:
        async with open_websocket_url(url, subprotocols=["binary"]) as vm:
            async with trio.open_nursery() as nursery:

                async def up() -> None:
                    async for data in client:
                        await vm.send_message(bytes(data))
                    nursery.cancel_scope.cancel()

                nursery.start_soon(up)
                while True:
                    message = await vm.get_message()
                    assert isinstance(message, bytes)
                    await client.send_all(message)

    await trio.serve_tcp(serve, port, host="127.0.0.1")


trio.run(main, int(sys.argv[1]), sys.argv[2])
