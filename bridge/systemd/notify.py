"""What systemd tells a service, and what a service tells systemd: variables and datagrams.

Owns sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3), in the few lines that they
are: the packages for it are C, or lack descriptors.  Nothing here waits.

Where no manager wants to be told, ``notifier`` gives one that takes everything: nobody who
tells has to ask first.
"""

import errno
import logging
import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import Protocol

log = logging.getLogger("ttybridge")

_FIRST = 3  # SD_LISTEN_FDS_START

# Nobody is at the address, or nobody has been asked yet.
_UNCONNECTED = {errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}


class Notifier(Protocol):
    """Where a service's news go."""

    def send(self, *assignments: str, fds: Sequence[int] = ()) -> bool:
        """Send one message; False if there is no room for it now: wait until writable.

        Never blocks.  A message for a manager that is gone is dropped: with it went what
        it knew of us.
        """

    def fileno(self) -> int:
        """To be waited for after a False."""


class Silence:
    """A service that no manager watches."""

    def send(self, *assignments: str, fds: Sequence[int] = ()) -> bool:  # noqa: ARG002 (whatever)
        return True

    def fileno(self) -> int:
        raise AssertionError("nobody waits for silence")


class NotifySocket:
    """The manager's datagram socket."""

    def __init__(self, address: str) -> None:
        self._address = address
        # Connected, so that it becomes writable when the manager has read: its queue holds
        # no more than net.unix.max_dgram_qlen messages, 10 where nobody raised it.
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._complained = False

    def send(self, *assignments: str, fds: Sequence[int] = ()) -> bool:
        message = "\n".join(assignments).encode()
        try:
            try:
                self._send(message, fds)
            except OSError as error:
                if error.errno not in _UNCONNECTED:
                    raise
                self._socket.connect(self._address)  # the first time, or a new one is there
                self._send(message, fds)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EBADF:
                raise  # our own mistake
            self._complain(error)
        return True

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: bytes, fds: Sequence[int]) -> None:
        socket.send_fds(self._socket, [message], fds, socket.MSG_NOSIGNAL)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            log.warning("systemd cannot be told of our state: %s", error.strerror)
            self._complained = True


def notifier(environment: MutableMapping[str, str] = os.environ) -> NotifySocket | Silence:
    """The manager's socket, if it gave us one.

    The variable stays: a re-exec needs it again, and there are no children.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if address.startswith("/"):
        return NotifySocket(address)
    if address.startswith("@"):  # abstract (unix(7))
        return NotifySocket("\0" + address[1:])
    return Silence()  # unset, or vsock: for a whole machine


def watchdog_interval(environment: MutableMapping[str, str] = os.environ) -> float | None:
    """Within how many seconds the manager wants to hear of us, again and again."""
    pid = environment.get("WATCHDOG_PID")
    if pid is not None and pid != str(os.getpid()):
        return None  # meant for our parent
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None


def listen_fds(environment: MutableMapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """The descriptors that the manager passed, by name; a name may be there more than once.

    They are ours from now on, closed on exec.  The variables are taken out, as after a
    re-exec the numbers may be anything's.
    """
    pid, count, names = (
        environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    named = names.split(":") if names else []
    named += ["unknown"] * (int(count) - len(named))
    passed = list(zip(named, range(_FIRST, _FIRST + int(count)), strict=False))
    for _, fd in passed:
        os.set_inheritable(fd, False)
    return passed
