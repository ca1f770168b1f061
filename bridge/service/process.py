"""What the process as a whole asks of the kernel: which signals it heeds, how many descriptors."""

import logging
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import FrameType

import trio

from bridge.endpoints.sockets import MAX_ATTACHMENTS

log = logging.getLogger("ttybridge")

# QUIT is for whoever types ^\ at our terminal: to die of it would lock QEMU's consoles.
_HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR2)

# Upstream, PTY, raw, telnet and Unix listeners of each console, with a few clients each.
_DESCRIPTORS_PER_CONSOLE = 9


@contextmanager
def heeded_signals() -> Iterator[AsyncIterator[int]]:
    """The signals that come from now on, those that another process has held back included.

    HUP is among them, unless it was ignored when we started, as nohup(1) has it.
    """
    heeded = list(_HEEDED)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heeded.append(signal.SIGHUP)
    for number in heeded:
        # What is in force after the context.  A block is for this thread alone, and a
        # signal is delivered to any other: trio keeps those that have looked up a name.
        signal.signal(number, hold)
    with trio.open_signal_receiver(*heeded) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_HEEDED, signal.SIGHUP})
        yield signals


def hold_signals() -> None:
    """Block them to the end, or until the process that goes on heeds them.

    One that killed us now would leave QEMU's consoles locked.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_HEEDED, signal.SIGHUP})


def hold(number: int, _frame: FrameType | None = None) -> None:
    """Keep a signal that has come already for the process that goes on, if there is one."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    signal.raise_signal(number)  # to this thread; exec(2) keeps what is pending there


def has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def raise_descriptor_limit(consoles: int) -> None:
    """Use all descriptors that we may, and say so at the start if they will not do."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = consoles * _DESCRIPTORS_PER_CONSOLE + MAX_ATTACHMENTS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning(
            "the limit of %d open files (ulimit -Hn) may not do for %d consoles; %d would",
            hard,
            consoles,
            wanted,
        )
