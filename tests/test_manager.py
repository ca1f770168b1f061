"""Questions to systemd where the answer is not what one hopes for; the real one: test_systemd."""

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from bridge.systemd import manager
from tests.support.dbus import reply

Behaviour = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the private socket is to be."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "systemd").mkdir()
    return tmp_path / "systemd" / "private"


@asynccontextmanager
async def served(private: Path, behaviour: Behaviour) -> AsyncIterator[None]:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(private))
    listener.listen()
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_listeners, behaviour, [trio.SocketListener(listener)])
        nursery.start_soon(serve)
        yield
        nursery.cancel_scope.cancel()


def text(words: str) -> bytes:
    return struct.pack("<I", len(words)) + words.encode() + b"\0"


async def answer(stream: trio.SocketStream, *answers: bytes) -> None:
    """Greet, then one of ``answers`` to each call, byte by byte; then silence."""
    await stream.receive_some()
    pieces = iter(answers)
    for byte in next(pieces):
        await stream.send_all(bytes([byte]))
    for piece in pieces:
        await stream.receive_some()
        for byte in piece:
            await stream.send_all(bytes([byte]))
    await stream.receive_some()


OK = b"OK 0123\r\n"
UNIT = reply(2, 1, "o", text("/unit"))
NO_JOB = reply(2, 2, "v", b"\4(uo)\0\0\0" + struct.pack("<I", 0) + text("/"))
A_JOB = reply(2, 2, "v", b"\4(uo)\0\0\0" + struct.pack("<I", 7) + text("/job/7"))


def job(kind: str) -> bytes:
    return reply(2, 3, "v", b"\1s\0\0" + text(kind))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((OK, UNIT, A_JOB, job("restart")), manager.Job.RESTART),
        ((OK, UNIT, A_JOB, job("stop")), manager.Job.STOP),
        ((OK, UNIT, A_JOB, job("verify-active")), None),
        ((OK, UNIT, NO_JOB), None),
        ((OK, reply(3, 1, "s", text("no such unit"))), None),
        ((OK, reply(2, 1, "u", struct.pack("<I", 1))), None),
        ((OK, UNIT, reply(2, 2, "", b"")), None),
        ((OK, b"nonsense, and more of it"), None),
        ((b"REJECTED EXTERNAL\r\n",), None),
    ],
)
async def test_what_is_answered(
    private: Path, answers: tuple[bytes, ...], expected: manager.Job | None
) -> None:
    async with served(private, lambda stream: answer(stream, *answers)):
        assert await manager.pending_job() is expected


async def test_signals_between_are_not_the_answer(private: Path) -> None:
    signal = b"l\4\0\1" + struct.pack("<III", 0, 1, 0)
    answers = (OK + signal, signal + UNIT, signal * 3 + A_JOB, job("restart"))
    async with served(private, lambda stream: answer(stream, *answers)):
        assert await manager.pending_job() is manager.Job.RESTART


async def test_without_systemd_nothing_is_known(private: Path) -> None:
    assert await manager.pending_job() is None
    private.touch()  # noqa: ASYNC240 (a test may)
    assert await manager.store_limit() is None


async def test_one_that_hangs_up(private: Path) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.aclose()

    async with served(private, hang_up):
        assert await manager.pending_job() is None


@pytest.mark.parametrize("answers", [(b"",), (OK,), (OK, UNIT)])
async def test_one_that_is_silent_is_not_waited_for(
    private: Path, answers: tuple[bytes, ...], autojump_clock: MockClock
) -> None:
    async with served(private, lambda stream: answer(stream, *answers)):
        before = trio.current_time()
        assert await manager.pending_job() is None
        assert trio.current_time() - before <= manager.LIMIT + 0.001


async def test_the_limit_of_the_store(private: Path) -> None:
    limit = reply(2, 2, "v", b"\1u\0\0" + struct.pack("<I", 77))
    async with served(private, lambda stream: answer(stream, OK, UNIT, limit)):
        assert await manager.store_limit() == 77
