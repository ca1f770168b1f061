"""A QMP server of any version, without a machine."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.user import User


@contextmanager
def fake_qmp(user: User, path: Path, version: tuple[int, int, int]) -> Iterator[list[str]]:
    """A QMP server that knows its version, and refuses all else."""
    major, minor, micro = version
    numbers = {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": ""}
    asked: list[str] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), client, client.makefile("rwb", buffering=0) as stream:
                stream.write(json.dumps({"QMP": {"version": numbers}}).encode() + b"\r\n")
                for line in stream:
                    request = json.loads(line)
                    asked.append(request["execute"])
                    answers = {"qmp_capabilities": {}, "query-version": numbers}
                    answer: dict[str, object] = {"id": request["id"]}
                    if request["execute"] in answers:
                        answer["return"] = answers[request["execute"]]
                    else:
                        answer["error"] = {"class": "GenericError", "desc": "no"}
                    stream.write(json.dumps(answer).encode() + b"\r\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        user.own(path)
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
