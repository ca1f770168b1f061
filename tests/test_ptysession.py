"""The sessions of a PTY's endpoint, to the very turn of the loop."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from bridge.console.console import TOTAL_LIMIT, Console
from bridge.console.manners import Kind, Manners
from bridge.console.pacing import Input, Pacer
from bridge.console.queue import InputQueue
from bridge.endpoints.pty import QUIET, PtyEndpoint
from bridge.kernel.presence import Presence
from bridge.kernel.runtime import Link


@asynccontextmanager
async def serving(console: Console, link: Path) -> AsyncIterator[None]:
    """The endpoint, with its PTY at ``link``."""
    with Presence() as presence:
        endpoint = PtyEndpoint(console, presence, Link(link), Manners(Kind.PTY), print)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(presence.run)
            nursery.start_soon(endpoint.run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()
        endpoint.close()


@pytest.mark.parametrize("output", [b"", b"two\n"])
async def test_who_comes_right_after_another_is_shown_all(tmp_path: Path, output: bytes) -> None:
    """The service looks only when both have gone and come, maybe after it met the hang-up."""

    async def read(fd: int, wanted: bytes) -> None:
        seen = b""
        with trio.fail_after(10):
            while wanted not in seen:
                await trio.lowlevel.wait_readable(fd)
                seen += os.read(fd, 4096)

    console = Console("vm", "ws://h", scrollback=1 << 20, pacer=Pacer(Input.DIRECT))
    async with serving(console, tmp_path / "vm"):
        first = os.open(tmp_path / "vm", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        await trio.sleep(2 * QUIET)
        console.feed(b"one\n")
        await read(first, b"one\n")
        os.close(first)
        console.feed(output)
        second = os.open(tmp_path / "vm", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        await trio.sleep(2 * QUIET)
        console.feed(b"three\n")
        await read(second, b"three\n")
    os.close(second)


async def test_a_hung_up_pty_is_neither_written_nor_waited_for(tmp_path: Path) -> None:
    """Its master polls as writable for ever, and takes but a few KiB: a busy loop."""

    class Steps(trio.abc.Instrument):
        count = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.count += 1

    class Line:
        clear = False

        def send_break(self) -> bool:
            return False

        def send(self, payload: bytes) -> None:
            raise AssertionError

    console = Console("vm", "ws://h", scrollback=1 << 20, pacer=Pacer(Input.ECHO))
    console.connect(Line())
    console.requeue(InputQueue(), bytes(TOTAL_LIMIT))  # the guest takes nothing
    async with serving(console, tmp_path / "vm"):
        slave = os.open(tmp_path / "vm", os.O_RDWR | os.O_NOCTTY)
        os.write(slave, b"y" * 3000)
        await trio.testing.wait_all_tasks_blocked()
        os.write(slave, b"y" * 3000)
        os.close(slave)  # more than the queue holds is still to be read
        await trio.sleep(2 * QUIET)
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for _ in range(20):
            console.feed(b"x" * 10_000)
            await trio.sleep(0.005)
        assert steps.count < 200
        assert console.readers
