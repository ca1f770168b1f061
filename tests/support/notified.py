"""systemd's end of the notify socket, played by the test: what it is told, it says and keeps."""

import os
import socket
from collections import deque
from pathlib import Path
from typing import Self

import trio


class Notified:
    """Keeps descriptors as systemd 252 does (service.c); a context."""

    def __init__(self, address: str | Path, limit: int = 1 << 20) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(address))
        self.address = str(address)
        self.limit = limit
        self.messages: deque[list[str]] = deque()
        self.store: list[tuple[str, int]] = []
        self.refused = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        for _name, fd in self.store:
            os.close(fd)

    def read(self) -> bool:
        """Read one message if there is one."""
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 4096, 253)
        except BlockingIOError:
            return False
        words = data.decode().split("\n")
        self.messages.append(words)
        name = next((w.removeprefix("FDNAME=") for w in words if w.startswith("FDNAME=")), "")
        if "FDSTOREREMOVE=1" in words:
            for entry in [entry for entry in self.store if entry[0] == name]:
                self.store.remove(entry)
                os.close(entry[1])
        for fd in fds:
            if "FDSTORE=1" in words and len(self.store) < self.limit:
                self.store.insert(0, (name, fd))  # as its list has it
            else:
                self.refused += "FDSTORE=1" in words
                os.close(fd)
        return True

    async def serve(self) -> None:
        """Read whatever comes, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self.socket)
            self.read()

    def read_all(self) -> list[list[str]]:
        """Read what there is; return the messages since the last time."""
        while self.read():
            pass
        messages = list(self.messages)
        self.messages.clear()
        return messages
