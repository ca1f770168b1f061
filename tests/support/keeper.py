"""A small service that puts things into systemd's descriptor store and says what came back.

python keeper.py COUNT REPORT: one JSON object a line is appended to REPORT.  Runs from its
file alone, beside an installed ttybridge.
"""

import ctypes
import errno
import json
import mmap
import os
import pty
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from bridge.systemd import manager
from bridge.systemd import notify as systemd
from bridge.systemd.fdstore import RECORD, Rank, Record, Store
from bridge.systemd.supervision import Supervision


def report(**facts: object) -> None:
    with open(sys.argv[2], "a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def first_things(count: int) -> tuple[dict[str, int], str]:
    """A PTY, and files that hold their names; and the PTY's name."""
    master, slave = pty.openpty()
    fds = {"pty": master}
    for name in map("f{}".format, range(count)):
        fds[name] = os.memfd_create(name)
        os.write(fds[name], name.encode())
    name = os.ttyname(slave)
    os.close(slave)
    return fds, name


def wrong(fds: dict[str, int]) -> int:
    """How many are not what their names say."""
    files = {name: fd for name, fd in fds.items() if name not in {RECORD, "pty"}}
    return sum(os.pread(fd, 100, 0) != name.encode() for name, fd in files.items())


def hardening() -> dict[str, str]:
    """What becomes of attempts that the unit is to prevent, and of one that it is not to."""
    file = Path(f"{sys.argv[2]}.mode")
    file.touch()
    executable = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    new_user_namespace, linux32, peek = 0x10000000, 8, 3
    return {
        "netlink": _attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        "packets": _attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
        "executable memory": _attempt(partial(mmap.mmap, -1, 4096, prot=executable)),
        "setuid": _attempt(lambda: file.chmod(0o4700)),
        "namespace": _attempt(partial(_call, "unshare", new_user_namespace)),
        "personality": _attempt(partial(_call, "personality", linux32)),
        "debugging": _attempt(partial(_call, "ptrace", peek, 0, 0, 0)),
    }


def _attempt(what: Callable[[], object]) -> str:
    try:
        what()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "allowed"


def _call(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


async def main() -> None:
    limit = await manager.store_limit()
    store = Store(systemd.notifier(), limit, print)
    fds = store.adopt(systemd.listen_fds())
    came = len(fds)
    record = Record(fds.pop(RECORD, None))
    state = json.loads(record.read() or b'{"generation": 0}')
    if not came:
        fds, state["pts"] = first_things(int(sys.argv[1]))
    state["generation"] += 1
    record.write(json.dumps(state).encode())
    store.put(RECORD, record.fd)
    for name, fd in fds.items():
        store.put(name, fd, Rank.VITAL if name == "pty" else Rank.CLIENT)
    os.write(fds["pty"], b"generation %d\n" % state["generation"])
    supervision = Supervision(systemd.notifier())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervision.run, dict)
        await store.flush()
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            report(
                **state,
                came=came,
                wrong=wrong(fds),
                limit=limit,
                left_out=store.left_out,
                hardening=hardening(),
            )
            supervision.ready()
            async for _ in signals:
                break
        before = time.perf_counter()
        job = await manager.pending_job()
        report(job=job and job.value, seconds=time.perf_counter() - before)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
