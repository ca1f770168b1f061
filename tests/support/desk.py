"""A user's machine: a VM with Linux in it, and the README's configuration running."""

import itertools
import subprocess
from pathlib import Path

from tests.support import readme
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.qemu import Qemu, free_port
from tests.support.terminal import Terminal
from tests.support.user import User
from tests.support.waiting import eventually

PROMPT = b"guest# "

# `keys COUNT MARK` says in the guest which bytes arrive, with nothing echoed.
_KEYS = (
    "keys() { stty raw -echo; printf 'ready-%d\\r\\n' $2;"
    " dd bs=1 count=$1 2>/dev/null | busybox od -An -v -tx1; stty sane; }"
)


class Desk:
    """On free ports; its first console is the VM's, the second one's VM is off."""

    def __init__(self, user: User, place: Path, vm: Qemu) -> None:
        self.user = user
        self._ports = {"4555": vm.port, "4001": free_port(), "4002": free_port()}
        runtime = place / "runtime"
        runtime.mkdir()
        user.own(runtime)
        self.environment = {"XDG_RUNTIME_DIR": str(runtime)}
        config = place / "config.toml"
        config.write_text(self.localised(readme.blocks("toml")[0]))
        config.chmod(0o644)
        self.bridge = Bridge(user, runtime / "ttybridge", "--config", str(config))
        self._numbers = itertools.count(1000)

    def settle(self) -> None:
        """Wait for the guest's shell, and teach it ``keys``."""
        self.bridge.wait_message("vm1: ONLINE")
        with Client(self.bridge.raw) as client:
            client.type(b"\r")
            client.read_until(PROMPT)
            client.type(_KEYS.encode() + b"\r")
            client.read_until(PROMPT)

    def number(self) -> int:
        """One of four digits that has not been on the console yet."""
        return next(self._numbers)

    def leave_a_mark(self) -> str:
        """Have something printed that was never typed; return it."""
        mark = f"mark-{self.number()}"
        with Client(self.bridge.raw) as client:
            client.type(f"echo mark-$(({mark[5:]}))\r".encode())
            client.read_until(mark.encode() + b"\r\n" + PROMPT)
        return mark

    def localised(self, text: str) -> str:
        """The README's text with this machine's ports."""
        for port, own in self._ports.items():
            text = text.replace(port, str(own))
        return text

    def sit_down(self, directory: Path, command: str) -> Terminal:
        """Open a terminal and say ``command``, which the README has."""
        exports = "; ".join(f"export {k}={v}" for k, v in self.environment.items())
        return Terminal(self.user, directory, f"{exports}; {self.localised(command)}")

    def sh(self, command: str) -> "subprocess.CompletedProcess[str]":
        return self.user.run(["sh", "-c", self.localised(command)], env=self.environment)

    def wait_alone(self) -> None:
        """Wait until nobody is attached."""
        eventually(lambda: not self.bridge.status()["attachments"], what="nobody attached")
