"""BREAK reaches the SysRq handler of a real Linux, whichever way it goes; or it is said why not."""

import re
from pathlib import Path

import pytest

from bridge.base.telnet import Code
from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.peer import Peer
from tests.support.qemu import Qemu, free_port
from tests.support.terminal import Terminal
from tests.support.user import User

BREAK = bytes([Code.IAC, Code.BRK])
HELP = b"sysrq: HELP : loglevel(0-9)"


def config(directory: Path, vm: Qemu | Fake, *lines: str) -> str:
    file = directory / "config.toml"
    file.write_text("\n".join(["[consoles.vm]", f'url = "{vm.url}"', *lines, ""]))
    file.chmod(0o644)
    return str(file)


@pytest.fixture
def vm(boot: Boot, linux: Path) -> Qemu:
    return boot("linux", linux=linux)


def break_amid_lines(client: Client) -> None:
    """All in one packet: the BREAK goes when the line before it has been read, `h` after it."""
    client.read_until(b"guest# ")
    client.type(b"echo be-$((40 + 2))\r" + BREAK + b"hecho af-$((40 + 2))\r")
    seen = client.read_until(b"af-42")
    assert HELP in seen
    assert b"be-42" in seen  # perhaps behind it: the shell may be slower than the kernel


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
    vm.leave_qmp()
    file = config(directory, vm, f'qmp = "unix://{vm.qmp_path}"')
    with (
        Bridge(user, directory / "run", "--config", file) as bridge,
        Client(bridge.telnet) as client,
    ):
        break_amid_lines(client)


@pytest.mark.parametrize("kind", ["websocket", "tcp"])
def test_in_band(user: User, directory: Path, boot: Boot, linux: Path, kind: str) -> None:
    """``telnet=on``, with ``websocket=on`` or without: no QMP is known."""
    vm = boot("linux", linux=linux, telnet=True, websocket=kind == "websocket")
    file = config(directory, vm, 'upstream = "telnet"')
    with (
        Bridge(user, directory / "run", "--config", file) as bridge,
        Client(bridge.telnet) as client,
    ):
        break_amid_lines(client)
        done = user.run(["ttybridge", "break", "vm", "--runtime-dir", str(bridge.directory)])
        assert (done.returncode, done.stderr) == (0, "")
        client.type(b"h")
        client.read_until(HELP)


def test_a_console_that_another_holds_gets_one_too(user: User, directory: Path, boot: Boot) -> None:
    """QMP asks nobody who has the console."""
    vm = boot("echofifo")
    vm.leave_qmp()
    file = config(directory, vm, f'qmp = "unix://{vm.qmp_path}"')
    with Peer(vm.port) as holder:
        holder.answer()
        with Bridge(user, directory / "run", "--config", file) as bridge:
            bridge.wait_message("vm: BUSY")
            assert send_break(user, bridge) == ""
            assert holder.frame() == b"\x82\x01\x00"


def send_break(user: User, bridge: Bridge) -> str:
    """The command; what it says against it."""
    done = user.run(["ttybridge", "break", "vm", "--runtime-dir", str(bridge.directory)])
    assert done.returncode == (1 if done.stderr else 0)
    assert done.stdout == ""
    return done.stderr


ANSWERS = {
    "unix:///nowhere/qmp": "QMP at /nowhere/qmp: .*",
    "unix://{held}": "QMP at .*/qmp.sock: another user's process has it",
    "unix://{other}": r"QMP shows no chardev at 127.0.0.1:\d+; it shows: c \(disconnected:.*\).*",
    "": "there is .*-qmp unix:/PATH,server=on,wait=off.* telnet=on .*settings",
}


@pytest.mark.parametrize("qmp", ANSWERS)
def test_where_there_is_no_way_it_is_said(
    user: User, directory: Path, boot: Boot, qmp: str
) -> None:
    """To the command, in the log, and to the telnet client that asked; no other is bothered."""
    held, other = boot("deaf"), boot("deaf")
    other.leave_qmp()
    answer = ANSWERS[qmp]
    where = qmp.format(held=held.qmp_path, other=other.qmp_path)
    with (
        Fake("echo") as vm,  # whose process is no QEMU's
        Bridge(
            *(user, directory / "run", "--config"),
            config(directory, vm, *([f'qmp = "{where}"'] if qmp else [])),
        ) as bridge,
        Client(bridge.telnet) as client,
        Client(bridge.telnet) as another,
    ):
        bridge.wait_message("vm: ONLINE")
        bridge.wait_attached(2)
        assert re.fullmatch(f"ttybridge: vm: no BREAK: {answer}\n", send_break(user, bridge))
        client.type(BREAK)
        client.read_until(b"[ttybridge: vm: no BREAK: ")
        assert re.fullmatch(f"{answer}]\r\n", client.read_until(b"]\r\n").decode())
        bridge.wait_message("vm: no BREAK: ")
        client.reach_echo()
        another.read_until(b"?")
        assert b"BREAK" not in another.seen


def test_the_qmp_socket_of_the_qemu_that_listens_there_is_found(
    user: User, directory: Path, boot: Boot
) -> None:
    """No settings."""
    vm = boot("echofifo")
    vm.leave_qmp()
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        client.reach_echo()
        assert send_break(user, bridge) == ""
        assert client.read_exactly(1) == b"\0"


def test_a_console_that_is_found_has_its_way(user: User, directory: Path, boot: Boot) -> None:
    """In-band, as its command line says, where the test has its QMP; else by that."""
    boot("echofifo", telnet=True, name="telnetting")
    boot("echofifo", name="plain").leave_qmp()
    with Bridge(user, directory / "run", "--discover") as bridge:
        for name in ("telnetting", "plain"):
            bridge.wait_message(f"{name}: ONLINE")
            done = user.run(["ttybridge", "break", name, "--runtime-dir", str(bridge.directory)])
            assert (done.returncode, done.stderr) == (0, "")


def test_real_clients_send_one(tools: None, user: User, directory: Path, vm: Qemu) -> None:
    vm.leave_qmp()
    file = config(directory, vm, f'qmp = "unix://{vm.qmp_path}"')
    with Bridge(user, directory / "run", "--config", file) as bridge:
        host, port = bridge.telnet
        with Terminal(user, directory, f"telnet {host} {port}") as terminal:
            terminal.wait_for("guest# ")
            terminal.keys("C-]")
            terminal.wait_for(r"telnet> *\s*\Z")
            terminal.type("send brk")
            terminal.keys("Enter")
            bridge.wait_message("vm: BREAK sent")
            terminal.keys("h")
            terminal.wait_for("sysrq: HELP")


def test_a_flood_of_breaks_harms_nobody(user: User, directory: Path, boot: Boot) -> None:
    """Those that wait with nothing between them are one."""
    vm = boot("echofifo")
    vm.leave_qmp()
    file = config(directory, vm, f'qmp = "unix://{vm.qmp_path}"')
    with (
        Bridge(user, directory / "run", "--config", file) as bridge,
        Client(bridge.telnet) as client,
        Client(bridge.raw) as other,
    ):
        bridge.wait_message("vm: ONLINE")
        other.reach_echo()
        client.type(BREAK * 10_000)
        other.type(b"k")
        assert b"k" in other.read_until(b"k")
        assert sum("BREAK sent" in line for line in bridge.messages) < 100


def test_a_flood_of_breaks_to_nobody_costs_no_memory(user: User, directory: Path) -> None:
    with (
        Bridge(user, directory / "run", f"vm=ws://127.0.0.1:{free_port()}") as bridge,
        Client(bridge.telnet) as client,
    ):
        bridge.wait_message("vm: WAITING")
        client.type(BREAK * 200_000 + b"\xff\xf6")  # and AYT
        client.read_until(b"[ttybridge: yes]")
        bridge.wait_message("vm: no BREAK: ")
        status = Path(f"/proc/{bridge.process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 100_000  # KiB


def test_over_tcp_and_as_soon_as_a_reload_says_where(
    user: User, directory: Path, boot: Boot
) -> None:
    """The console itself is not touched by that."""
    port = free_port()
    vm = boot("echofifo", more=["-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off"])
    file = config(directory, vm)
    with Bridge(user, directory / "run", "--config", file) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        client.reach_echo()
        assert "has it" in send_break(user, bridge)  # the first on the command line, by itself
        config(directory, vm, f'qmp = "tcp://127.0.0.1:{port}"')
        done = user.run(["ttybridge", "reload", "--runtime-dir", bridge.directory])
        assert done.stdout == "changed vm\n"
        assert send_break(user, bridge) == ""
        assert client.read_exactly(1) == b"\0"
        assert bridge.status()["connections"] == 1


def test_the_consoles_of_one_machine_take_turns_at_its_qmp_socket(
    user: User, directory: Path, boot: Boot
) -> None:
    port = free_port()
    second = f"socket,id=d,websocket=on,host=127.0.0.1,port={port},server=on,wait=off"
    vm = boot("deaf", more=["-chardev", second, "-serial", "chardev:d"])
    vm.leave_qmp()
    file = directory / "config.toml"
    urls = [vm.url, f"ws://127.0.0.1:{port}"]
    file.write_text("".join(f'[consoles.c{n}]\nurl = "{url}"\n' for n, url in enumerate(urls)))
    file.chmod(0o644)
    with Bridge(user, directory / "run", "--config", str(file)) as bridge:
        for name in ("c0", "c1"):
            bridge.wait_message(f"{name}: ONLINE")
        commands = [
            user.popen(["ttybridge", "break", f"c{n % 2}", "--runtime-dir", str(bridge.directory)])
            for n in range(6)
        ]
        assert [command.wait(30) for command in commands] == [0] * 6
