"""What is found of a real QEMU: where its consoles are, and who has them."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bridge.settings.config import parse
from bridge.settings.url import UnixAddress
from bridge.vms import listing
from bridge.vms.discovery import Found, Kernel, Slot, console_name, consoles, records
from bridge.vms.processes import Process
from bridge.vms.qemuargs import Chardev, Unix, parse_argv
from bridge.vms.qmp import CHARDEVS, CharInfo, Command
from bridge.vms.qmpsync import QmpSession
from bridge.vms.vms import Told, Vm, Vms, inquire
from tests.support.bridge import Bridge
from tests.support.machine import Machine, machine
from tests.support.qemu import free_port
from tests.support.user import User
from tests.support.waiting import eventually


def find(started: Machine) -> dict[str, Found]:
    """The consoles of a machine by chardev."""
    (vm,) = [vm for vm in Vms().look() if vm.process.pid == started.pid]
    return {found.chardev.id: found for found in consoles(vm, Kernel())}


def ports(started: Machine) -> dict[str, int | None]:
    """What QEMU itself says of its chardevs' ports."""
    rows = started.ask(CHARDEVS)
    return {
        row.label.removesuffix("-base"): row.socket.port
        for row in rows
        if row.socket and row.socket.kind != "unix"
    }


ANY = "server=on,wait=off"


def test_every_port_that_the_command_line_leaves_open(
    tools: None, user: User, directory: Path
) -> None:
    base = free_port()
    with machine(
        user,
        directory,
        *("-serial", f"websocket:127.0.0.1:0,{ANY}", "-serial", f"mon:websocket:127.0.0.1:0,{ANY}"),
        *("-monitor", f"tcp::0,{ANY}", "-debugcon", f"tcp:localhost:0,{ANY}"),
        *("-chardev", f"socket,id=a,websocket=on,host=127.0.0.1,port={base},to={base + 50},{ANY}"),
        *("-chardev", f"socket,id=b,websocket=on,host=127.0.0.1,port={base},to={base + 50},{ANY}"),
        *("-device", "pci-serial-2x,chardev1=a,chardev2=b"),
        *("-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{free_port()}-:22"),
    ) as vm:
        found = find(vm)
        told = ports(vm)
        assert len(told) == 6
        assert {
            name: f.listener.address.port  # type: ignore[union-attr]
            for name, f in found.items()
            if f.listener
        } == told
        assert {name: f.chardev.device for name, f in found.items()} == {
            "a": "pci-serial-2x",
            "b": "pci-serial-2x",
            "serial0": "isa-serial",
            "serial1": "isa-serial",
            "compat_monitor1": "monitor",
            "debugcon": "isa-debugcon",
        }
        assert {name for name, f in found.items() if f.bridged} == {"a", "b", "serial0", "serial1"}
        assert found["debugcon"].url == f"tcp://localhost:{told['debugcon']}"


def test_unix_sockets_and_descriptors(tools: None, user: User, directory: Path) -> None:
    """A relative path begins where QEMU was started; an abstract one has no URL."""
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        os.set_inheritable(inherited.fileno(), True)
        number = inherited.fileno()
        started = user.popen(
            [
                *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-m", "16"),
                *("-name", "vm1", "-qmp", f"unix:rel.qmp,{ANY}"),
                *("-chardev", f"socket,id=a,path={directory}/a b,websocket=on,{ANY}"),
                *("-chardev", f"socket,id=r,path=rel.sock,{ANY}"),
                *("-chardev", f"socket,id=x,path=abs{os.getpid()},abstract=on,websocket=on,{ANY}"),
                *("-chardev", f"socket,id=f,fd={number},websocket=on,{ANY}"),
                *("-serial", "chardev:a", "-serial", "chardev:r", "-serial", "chardev:x"),
                *("-serial", "chardev:f"),
            ],
            pass_fds=[number],
        )
    try:

        def all_up() -> dict[str, Found] | None:
            vms = [vm for vm in Vms().look() if vm.process.pid == started.pid]
            found = [f for vm in vms for f in consoles(vm, Kernel())]
            up = len(found) == 4 and all(f.slot is Slot.FREE for f in found)
            return {f.chardev.id: f for f in found} if up else None

        found = eventually(all_up)
        port = inherited_port(found["f"])
        assert {name: f.url for name, f in found.items()} == {
            "a": f"ws+unix://{directory}/a%20b",
            "r": f"unix://{user.home}/rel.sock",
            "x": None,
            "f": f"ws://127.0.0.1:{port}",
        }
        assert {str(f.qmp) for f in found.values()} == {f"{user.home}/rel.qmp"}
        # Who holds them: by path, by name, by port.
        with (
            socket.socket(socket.AF_UNIX) as by_path,
            socket.socket(socket.AF_UNIX) as by_name,
            socket.create_connection(("127.0.0.1", port)),
        ):
            by_path.connect(f"{user.home}/rel.sock")
            by_name.connect(f"\0abs{os.getpid()}")
            with subprocess.Popen(
                ["socat", "-u", f"UNIX-CONNECT:{directory}/a b", "-"], stdout=subprocess.DEVNULL
            ) as socat:

                def all_held() -> list[Found] | None:
                    (vm,) = [vm for vm in Vms().look() if vm.process.pid == started.pid]
                    kernel = Kernel()
                    kernel.__dict__["ours"] = frozenset()  # else we ourselves would not count
                    held = consoles(vm, kernel)
                    return held if all(f.slot is Slot.HELD for f in held) else None

                listed = {r.chardev: r for r in records(eventually(all_held))}
                socat.kill()
            me = f"{Path('/proc/self/comm').read_text().strip()}, pid {os.getpid()}"
            assert {name: r.holder for name, r in listed.items()} == {
                "a": f"socat, pid {socat.pid}",
                "r": me,
                "x": me,
                "f": me,
            }
            # To this process itself its own connections are none of another's.
            assert {f.slot for f in eventually(all_up).values()} == {Slot.FREE}
    finally:
        started.kill()
        started.wait()


def inherited_port(found: Found) -> int:
    assert found.listener is not None
    port = found.listener.address
    assert port is not None
    return int(str(port).rpartition(":")[2])


def test_what_only_qmp_knows(tools: None, user: User, directory: Path) -> None:
    """A file that can't be read, a chardev of run time, one that was removed."""
    config = directory / "c.cfg"
    config.write_text(
        f'[chardev "c"]\nbackend = "socket"\npath = "{directory}/c"\nserver = "on"\nwait = "off"\n'
        f'[chardev "old"]\nbackend = "socket"\nhost = "127.0.0.1"\nport = "0"\nserver = "on"\n'
        'wait = "off"\nwebsocket = "on"\n[device]\ndriver = "isa-serial"\nchardev = "c"\n'
    )
    config.chmod(0o644)
    with machine(user, directory, "-readconfig", str(config), "-name", "x") as started:
        assert set(find(started)) == {"c", "old"}
        config.unlink()
        (vm,) = [vm for vm in Vms().look() if vm.process.pid == started.pid]
        assert vm.machine.unread == (str(config),)
        assert vm.questions
        assert consoles(vm, Kernel()) == []
        address: dict[str, Any] = {"type": "inet", "data": {"host": "127.0.0.1", "port": "0"}}
        data = {"addr": address, "server": True, "wait": False, "websocket": True}
        with QmpSession(UnixAddress(str(started.qmp_path))) as session:
            new = {"id": "new", "backend": {"type": "socket", "data": data}}
            session.execute(Command("chardev-add", new, lambda _: None))
            device = {"driver": "pci-serial", "chardev": "new"}
            session.execute(Command("device_add", device, lambda _: None))
            session.execute(Command("chardev-remove", {"id": "old"}, lambda _: None))
            vm.told = session.converse(inquire())
        found = {f.chardev.id: f for f in consoles(vm, Kernel())}
        assert {(n, f.chardev.device, f.slot) for n, f in found.items()} == {
            ("c", "isa-serial", Slot.FREE),
            ("new", "pci-serial", Slot.FREE),
        }
        assert found["new"].url == f"ws://127.0.0.1:{ports(started)['new']}"
        assert found["c"].url == f"unix://{directory}/c"
        assert not vm.questions


def test_a_chardev_that_was_removed_is_not_listed() -> None:
    argv = ("qemu-system-x86_64", "-chardev", "socket,id=c,path=/c,server=on,mux=on")
    vm = Vm(Process(1, 1, argv), parse_argv(argv, lambda _: None))
    assert [c.id for c in vm.chardevs] == ["c"]
    vm.told = Told(None, (), {})
    assert not vm.chardevs
    vm.told = Told("told", (CharInfo("c-base", "disconnected:unix:/c,server=on", True),), {})
    assert vm.chardevs == (Chardev("c", Unix("/c"), server=True, mux=True),)
    assert vm.name == "told"


@pytest.mark.parametrize(
    ("words", "name"),
    [(["-name", "a b"], "a b"), (["-hda", "/vm/debian.qcow2"], "debian"), ([], "qemu-7")],
)
def test_a_vm_has_a_name(words: list[str], name: str) -> None:
    argv = ("qemu-system-x86_64", *words)
    assert Vm(Process(7, 1, argv), parse_argv(argv, lambda _: None)).name == name


def found(vm: str, number: int | None, chardev: str) -> Found:
    process = Process(1, 1, ())
    return Found(vm, number, Chardev(chardev, None), None, process, None, None, Slot.FREE, (), True)


def test_console_names() -> None:
    assert console_name(found("vm1", 0, "c"), ()) == "vm1"
    assert console_name(found("vm1", 1, "serial1"), ()) == "vm1-serial1"
    assert console_name(found("vm1", None, "compat_monitor0"), ()) == "vm1-compat_monitor0"
    assert console_name(found("vm1", 0, "c"), {"vm1"}) == "vm1-2"
    assert console_name(found("vm1", 0, "c"), {"vm1", "vm1-2"}) == "vm1-3"
    assert console_name(found("-.my vm/ü", 0, "c"), ()) == "my-vm--"
    assert console_name(found("ü", 0, "c"), ()) == "vm"
    long = console_name(found("v" * 100, 1, "c" * 100), {"x"})
    for name in (long, console_name(found("v" * 100, 1, "c" * 100), {long})):
        parse(f'[consoles."{name}"]\nurl = "ws://h:1"', "test")


# --- the command


def discover(user: User, *more: str) -> list[dict[str, Any]]:
    done = user.run(["ttybridge", "discover", "--json", *more])
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_command(tools: None, user: User, directory: Path) -> None:
    port = free_port()
    with machine(
        user,
        directory,
        *("-name", "vm1", "-monitor", f"unix:{directory}/m,{ANY}"),
        *("-serial", f"websocket:127.0.0.1:{port},{ANY}"),
    ) as vm:
        free = {
            "vm": "vm1",
            "chardev": "serial0",
            "device": "isa-serial",
            "url": f"ws://127.0.0.1:{port}",
            "pid": vm.pid,
            "qmp": f"unix://{directory}/qmp",
            "slot": "free",
            "holder": None,
        }
        monitor = free | {
            "chardev": "compat_monitor1",
            "device": "monitor",
            "url": f"unix://{directory}/m",
        }
        mine = [record for record in discover(user) if record["pid"] == vm.pid]
        assert mine == [monitor, free]
        with user.popen(["nc", "127.0.0.1", str(port)], stdin=subprocess.PIPE) as nc:

            def held() -> list[dict[str, Any]]:
                return [r for r in discover(user) if r["pid"] == vm.pid and r["slot"] == "held"]

            assert eventually(held) == [free | {"slot": "held", "holder": f"nc, pid {nc.pid}"}]
            nc.kill()
        done = user.run(["ttybridge", "discover"])
        line = rf"^vm1 +serial0 +isa-serial +{vm.pid} +ws://127\.0\.0\.1:{port} +free$"
        assert re.search(line, done.stdout, re.MULTILINE)
        assert f"\n  ttybridge run vm1=ws://127.0.0.1:{port}\n" in done.stdout
        assert f"\n  ttybridge add vm1 ws://127.0.0.1:{port}\n" in done.stdout
        # To one that is bridged by now one attaches.
        where = directory / "run"
        with Bridge(user, where, f"mine=ws://127.0.0.1:{port}") as bridge:
            bridge.wait_message("mine: ONLINE")
            done = user.run(["ttybridge", "discover", "--runtime-dir", where])
            attach = f"\nmine, which is bridged:\n  ttybridge attach mine --runtime-dir {where}\n"
            assert attach in done.stdout
            assert f"ttybridge add vm1 ws://127.0.0.1:{port}" not in done.stdout


def test_a_vm_without_console_is_told_what_to_add(tools: None, user: User, directory: Path) -> None:
    with machine(user, directory, "-name", "dumb\x1b", "-serial", "null") as vm:
        done = user.run(["ttybridge", "discover"])
        (line,) = [line for line in done.stderr.splitlines() if f"(pid {vm.pid})" in line]
        assert line.startswith("ttybridge: dumb\\x1b (pid ")
        assert line.endswith(
            "add to its command line: -chardev socket,id=c,websocket=on,host=127.0.0.1,port=4555,"
            "server=on,wait=off -serial chardev:c"
        )


def test_without_any_vm_one_line_says_so() -> None:
    (line,) = listing._notes([], [])  # noqa: SLF001
    assert line.startswith("no QEMU that you may see runs here; ")
    assert "websocket=on" in line


def test_a_vm_of_another_user_is_listed_but_not_bridged(
    tools: None, user: User, intruder: User, directory: Path
) -> None:
    port = free_port()
    with machine(user, directory, "-serial", f"websocket:127.0.0.1:{port},{ANY}") as vm:
        (record,) = [r for r in discover(intruder) if r["pid"] == vm.pid]
        assert (record["url"], record["slot"]) == (f"ws://127.0.0.1:{port}", "free")


def test_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bridge.cli import main; main(['discover', '--json']);"
        "print([m for m in ('trio', 'websockets', 'trio_websocket') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
