"""BREAK reaches the SysRq handler of a real Linux, whichever way it goes; or it is said why not."""

from pathlib import Path

import pytest

from bridge.base.telnet import Code
from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.qemu import Qemu
from tests.support.user import User

BREAK = bytes([Code.IAC, Code.BRK])
HELP = b"sysrq: HELP : loglevel(0-9)"


def config(directory: Path, vm: Qemu, *lines: str) -> str:
    file = directory / "config.toml"
    file.write_text("\n".join(["[consoles.vm]", f'url = "{vm.url}"', *lines, ""]))
    file.chmod(0o644)
    return str(file)


@pytest.fixture
def vm(boot: Boot, linux: Path) -> Qemu:
    return boot("linux", linux=linux)


def test_the_command_by_qmp(user: User, directory: Path, vm: Qemu) -> None:
    vm.leave_qmp()
    file = config(directory, vm, f'qmp = "unix://{vm.qmp_path}"')
    with Bridge(user, directory / "run", "--config", file) as bridge, Client(bridge.raw) as client:
        client.read_until(b"guest# ")
        done = user.run(["ttybridge", "break", "vm", "--runtime-dir", str(bridge.directory)])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        client.type(b"h")
        client.read_until(HELP)
        bridge.wait_message("vm: BREAK sent")


def test_a_telnet_client_by_qmp(user: User, directory: Path, vm: Qemu) -> None:
    """All in one packet: the BREAK goes when the line before it has been read, `h` after it."""
    vm.leave_qmp()
    file = config(directory, vm, f'qmp = "unix://{vm.qmp_path}"')
    with (
        Bridge(user, directory / "run", "--config", file) as bridge,
        Client(bridge.telnet) as client,
    ):
        client.read_until(b"guest# ")
        client.type(b"echo be-$((40 + 2))\r" + BREAK + b"hecho af-$((40 + 2))\r")
        before = client.read_until(HELP)
        assert b"be-42" in before
        client.read_until(b"af-42")


@pytest.mark.parametrize("kind", ["websocket", "tcp"])
def test_in_band(user: User, directory: Path, boot: Boot, linux: Path, kind: str) -> None:
    """``telnet=on``, with ``websocket=on`` or without: no QMP is known."""
    vm = boot("linux", linux=linux, telnet=True, websocket=kind == "websocket")
    file = config(directory, vm, 'upstream = "telnet"')
    with (
        Bridge(user, directory / "run", "--config", file) as bridge,
        Client(bridge.telnet) as client,
    ):
        client.read_until(b"guest# ")
        client.type(b"echo be-$((40 + 2))\r" + BREAK + b"hecho af-$((40 + 2))\r")
        assert b"be-42" in client.read_until(HELP)
        client.read_until(b"af-42")
        done = user.run(["ttybridge", "break", "vm", "--runtime-dir", str(bridge.directory)])
        assert (done.returncode, done.stderr) == (0, "")
        client.type(b"h")
        client.read_until(HELP)
