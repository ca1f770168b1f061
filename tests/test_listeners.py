"""The one look for all consoles that wait: what it sees, and whether it can."""

import errno
import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from bridge.kernel import sockdiag
from bridge.kernel.listeners import NOBODY, Listeners, who_listens
from bridge.settings.url import TcpAddress, UnixAddress

HERE = TcpAddress("127.0.0.1", 1)
ELSEWHERE = TcpAddress("192.0.2.1", 1)


def test_only_what_is_on_this_machine_is_seen(tmp_path: Path) -> None:
    listeners = Listeners()
    assert listeners.sees(HERE)
    assert listeners.sees(UnixAddress(str(tmp_path / "s")))
    assert not listeners.sees(ELSEWHERE)
    assert not listeners.sees(TcpAddress("vm.example.com", 1))


def test_a_kernel_that_shows_nothing_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a sandbox that answers with empty lists."""
    monkeypatch.setattr(sockdiag, "_ask", lambda _request, _flags: iter(()))
    listeners = Listeners()
    assert not listeners.sees(HERE)
    assert listeners.sees(UnixAddress(str(tmp_path / "s")))  # is looked for by stat


def test_what_cannot_be_tried_is_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "create_server", refuse)
    assert not Listeners().sees(HERE)


async def test_another_listener_ends_the_wait(autojump_clock: trio.testing.MockClock) -> None:
    listeners = Listeners()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = TcpAddress("127.0.0.1", server.getsockname()[1])
        known = who_listens(address)
        assert known
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listeners.run)
            with trio.move_on_after(60) as scope:
                await listeners.wait_other(address, known)
            assert scope.cancelled_caught  # the same one is no news
            with trio.fail_after(1):
                await listeners.wait_other(address, NOBODY)
            nursery.cancel_scope.cancel()
