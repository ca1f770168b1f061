"""The built-in console server as a process, to be killed and restarted like a VM.

python -m tests.support.fake GUEST PORT
"""

import subprocess
import sys
from typing import Self

import trio

from bridge.service.demo import ConsoleServer
from bridge.service.guest import Guest
from tests.support.guests import GUESTS
from tests.support.user import REPOSITORY


class Fake:
    """What Qemu is, without QEMU; a context."""

    def __init__(self, guest: str, port: int = 0) -> None:
        self._guest = guest
        self.port = port
        self._start()
        self.url = f"ws://127.0.0.1:{self.port}"

    def _start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake", self._guest, str(self.port)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def restart(self) -> None:
        self._start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


async def _main() -> None:
    guest: Guest = GUESTS[sys.argv[1]]()
    server = ConsoleServer(guest, int(sys.argv[2]))
    print(server.port, flush=True)
    await server.run()


if __name__ == "__main__":
    trio.run(_main)
