#!/usr/bin/env python3
"""Boots a VM, logs in on its serial console and runs a command there.

    contrib/guest/linux /tmp/guest                      # once
    contrib/examples/provision.py /tmp/guest 'uname -a'

Prints what the command prints, and exits as it does.  Needs QEMU, and a ttybridge that runs;
the VM is gone afterwards.
"""

import argparse
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from bridge import api

PROMPT = re.compile(r"# $")


@asynccontextmanager
async def machine(guest: str, console: str) -> AsyncIterator[None]:
    """Run a VM whose console is a websocket on the Unix socket ``console``."""
    process = await trio.lowlevel.open_process(
        [
            *("qemu-system-x86_64", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"),
            *("-kernel", f"{guest}/vmlinuz", "-initrd", f"{guest}/initrd"),
            *("-append", "console=ttyS0 quiet login"),
            # wait=on: it boots when ttybridge is there, so that no line is missed.
            *("-chardev", f"socket,id=c,websocket=on,path={console},server=on,wait=on"),
            *("-serial", "chardev:c"),
        ],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def log_in(console: api.Console) -> None:
    await console.wait_for("login: ")
    await console.send("root", enter=True)
    await console.wait_for(PROMPT)


async def run(console: api.Console, command: str) -> tuple[str, int]:
    """Run a line of shell at the prompt; return what it prints, and its exit status."""
    # The echo of the line is no output of the command, nor are the marks in it the marks
    # that are printed; those end with the line, lest a status of 12 be taken for 1.  The
    # last mark may stand behind output that has no line's end.
    mark = secrets.token_hex(4)
    await console.send(f"echo begin-$(:); {command}; echo {mark}-$?", enter=True)
    await console.wait_for(re.compile(r"^begin-\n", re.MULTILINE))
    found = await console.wait_for(re.compile(mark + r"-(\d+)\n"))
    return found.before, int(found.match[1])


async def provision(guest: str, command: str, runtime_dir: str | None) -> int:
    service = api.Service(runtime_dir)
    name = f"provision-{os.getpid()}"
    with tempfile.TemporaryDirectory() as directory:
        socket = f"{directory}/console"
        await service.add(name, f"ws+unix://{socket}", raw=False, telnet=False, pty=False)
        try:
            async with await service.open(name) as console, machine(guest, socket):
                try:
                    with trio.fail_after(120):
                        await log_in(console)
                        output, status = await run(console, command)
                except trio.TooSlowError:
                    print(f"no answer; the last of it: {console.text[-300:]!r}", file=sys.stderr)
                    return 1
        finally:
            with trio.move_on_after(10, shield=True):
                await service.remove(name)
    print(output, end="")
    print(f"exit status {status}")
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("guest", metavar="GUEST", help="directory made by contrib/guest/linux")
    parser.add_argument("command", metavar="COMMAND", help="a line of shell, run as root in the VM")
    parser.add_argument("--runtime-dir", metavar="DIR", help="of the running ttybridge")
    arguments = parser.parse_args()
    try:
        return trio.run(provision, arguments.guest, arguments.command, arguments.runtime_dir)
    except (api.BridgeError, OSError) as error:
        print(f"provision: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
