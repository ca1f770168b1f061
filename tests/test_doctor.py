"""``ttybridge doctor`` with real guests: by way of the service, and without one."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.qemu import free_port
from tests.support.user import REPOSITORY, User
from tests.support.waiting import eventually


def doctor(user: User, what: str, *options: str | Path) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what ``--json`` says."""
    done = user.run(["ttybridge", "doctor", what, "--json", *options], timeout=60)
    assert done.stderr == ""
    record: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, record


def topics(record: dict[str, Any]) -> list[str]:
    return [hint["topic"] for hint in record["advice"]]


def test_a_linux_guest_by_the_service(user: User, directory: Path, boot: Boot, linux: Path) -> None:
    vm = boot("linux", linux=linux, talkative=True)
    where = ("--runtime-dir", directory / "run")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        client.socket.settimeout(60)
        client.read_until(b"guest# ")
        code, record = doctor(user, "vm", *where)
        assert code == 0
        assert (record["finding"], record["typed"], record["answers"]) == ("shell", "\r", True)
        assert (record["stages"], record["systems"]) == (["kernel"], ["linux"])
        # Somebody begins to type: that must not be entered.
        client.type(b"echo no-$((1 + 1))")
        client.read_until(b"1))")
        code, record = doctor(user, "vm", *where)
        assert (code, record["finding"], record["typed"]) == (0, "shell", "")
        done = user.run(["ttybridge", "doctor", "vm", *where])
        assert "typed      nothing: somebody typed " in done.stdout
        client.type(b"\x15")
        assert b"no-2" not in client.ask("echo calm")
    assert bridge.process.returncode == 0


def test_a_prompt_of_before(user: User, directory: Path, boot: Boot, linux: Path) -> None:
    """It is still to be seen, but whoever printed it does not read."""
    vm = boot("linux", linux=linux)
    where = ("--runtime-dir", directory / "run")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        with Client(bridge.raw) as client:
            client.socket.settimeout(60)
            client.read_until(b"guest# ")
            client.type(b"sleep 10000\r")
            client.read_until(b"sleep 10000\r\n")
        eventually(lambda: not bridge.status()["attachments"], what="the typist's leaving")
        code, record = doctor(user, "vm", *where)
        assert (code, record["finding"], topics(record)[0]) == (1, "echo", "here")
        with Client(bridge.raw) as client:
            client.type(b"\x03")
            client.read_until(b"guest# ")
        eventually(lambda: not bridge.status()["attachments"], what="the typist's leaving")
        vm.qmp("stop")
        code, record = doctor(user, "vm", *where)
        assert (code, record["finding"], record["answers"]) == (1, "shell", False)
        assert "paused" in record["advice"][0]["text"]


@pytest.mark.long
def test_firmware_with_a_service_and_without(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("ipxe")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        client.read_until(b"for the iPXE command line")
        client.type(b"\x02")
        client.read_until(b"iPXE>")
        code, record = doctor(user, "vm", "--read-only", "--runtime-dir", directory / "run")
        assert (code, record["finding"], record["typed"]) == (0, "ipxe", "")
    code, record = doctor(user, vm.url)
    assert (code, record["finding"], record["answers"]) == (0, "ipxe", True)
    assert (record["name"], record["last"]) == (f"127.0.0.1-{vm.port}", "iPXE>")
    eventually(lambda: not vm.connected(), what="QEMU free again")


def test_a_guest_that_only_returns_bytes(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("echofifo")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        bridge.wait_message("ONLINE")
        client.reach_echo()
    code, record = doctor(user, vm.url)
    assert (code, record["finding"]) == (1, "echo")
    assert {"the kernel", "the login"} <= set(topics(record))


def test_a_line_that_is_being_sent_is_not_entered(user: User, directory: Path, boot: Boot) -> None:
    """Who sends it is not attached, and nothing need show it."""
    vm = boot("deaf")
    run = directory / "run"
    with Bridge(user, run, f"vm={vm.url}") as bridge:
        bridge.wait_message("vm: ONLINE")
        user.run(["ttybridge", "send", "vm", "halt", "--runtime-dir", run])
        _, record = doctor(user, "vm", "--runtime-dir", run)
        assert record["typed"] == ""
        assert record["restraint"].startswith("somebody typed ")


@pytest.mark.parametrize("unix", [False, True])
def test_a_guest_that_says_nothing(user: User, boot: Boot, unix: bool) -> None:
    vm = boot("deaf", websocket=False, unix=unix)
    code, record = doctor(user, vm.url)
    assert (code, record["finding"], record["answers"]) == (1, "nothing", False)
    systems = {hint["system"] for hint in record["advice"]}
    assert {"debian", "fedora", "alpine", "freebsd", "openbsd", "windows"} <= systems
    eventually(lambda: not vm.connected(), what="QEMU free again")


def test_only_listening(user: User, boot: Boot) -> None:
    code, record = doctor(user, boot("deaf").url, "--read-only")
    assert (code, record["finding"], record["typed"], record["answers"]) == (1, "nothing", "", None)


def test_the_monitor_is_not_the_guest(user: User, boot: Boot) -> None:
    vm = boot("deaf", monitor=True)
    code, record = doctor(user, vm.url)
    assert (code, record["finding"]) == (1, "monitor")
    assert "quit would end the VM" in record["advice"][0]["text"]


def test_a_console_that_cannot_be_reached(user: User, directory: Path, boot: Boot) -> None:
    port = free_port()
    code, record = doctor(user, f"ws://127.0.0.1:{port}")
    assert (code, record["state"], record["finding"]) == (1, "WAITING", None)
    assert record["reason"] == "connection refused"
    with socket.create_server(("127.0.0.1", port)) as other:
        # As the port of another service would: FAILED, with what it said.
        url = f"ws://127.0.0.1:{port}"
        process = user.popen(["ttybridge", "doctor", url], stdout=subprocess.PIPE)
        with other.accept()[0] as client:
            client.recv(4096)
            client.sendall(b"SSH-2.0-OpenSSH_9.2\x1b[2J\r\n")
            out = process.communicate(timeout=30)[0].decode()
    assert process.returncode == 1
    assert "FAILED: " in out
    assert "websocket=on" in out
    assert "\x1b" not in out
    vm = boot("deaf")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        bridge.wait_message("ONLINE")
        code, record = doctor(user, vm.url)
    assert (code, record["state"]) == (1, "BUSY")
    assert "another client" in record["reason"]


def test_one_who_has_no_patience(user: User, boot: Boot) -> None:
    """SIGINT ends it in a line less, not with a traceback; and QEMU is left."""
    vm = boot("deaf")
    process = user.popen(
        ["ttybridge", "doctor", vm.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    eventually(vm.connected, what="the doctor's connection")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == 130
    eventually(lambda: not vm.connected(), what="QEMU free again")


def test_a_console_that_goes_meanwhile(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("deaf")
    where = ("--runtime-dir", directory / "run")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        bridge.wait_message("ONLINE")
        process = user.popen(
            ["ttybridge", "doctor", "vm", *where], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        bridge.wait_attached()
        assert user.run(["ttybridge", "remove", "vm", *where]).returncode == 0
        gone = b"ttybridge: the console has been removed, or the service has ended\n"
        assert process.communicate(timeout=30) == (b"", gone)
        assert process.returncode == 1


def kernel_line(*words: str) -> list[str]:
    """QEMU takes the last it is given."""
    return ["-append", " ".join(["console=ttyS0", *words])]


@pytest.mark.parametrize(
    ("words", "last", "finding"),
    [
        (["rdinit=/bin/sleep", "--", "10000"], b"as init process", "echo"),
        (["rdinit=/bin/ls"], b"end Kernel panic", "panic"),
    ],
    ids=["without-getty", "without-init"],
)
def test_a_kernel_that_comes_no_further(
    user: User,
    directory: Path,
    boot: Boot,
    linux: Path,
    words: list[str],
    last: bytes,
    finding: str,
) -> None:
    vm = boot("linux", linux=linux, more=kernel_line(*words))
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        client.socket.settimeout(60)
        client.read_until(last)
        code, record = doctor(user, "vm", "--runtime-dir", directory / "run")
    assert (code, record["finding"], record["systems"]) == (1, finding, ["linux"])
    assert record["stages"][:1] == ["kernel"]
    if finding == "echo":  # the kernel's console is a terminal that nobody reads
        assert topics(record) == ["here", "the login", "the login"]
        assert {hint["system"] for hint in record["advice"][1:]} == {"linux", "alpine"}


def test_wrong_words(user: User, directory: Path) -> None:
    done = user.run(["ttybridge", "doctor", "ftp://127.0.0.1:1"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ttybridge: 'ftp://127.0.0.1:1': scheme 'ftp' is not known")
    done = user.run(["ttybridge", "doctor", "vm", "--runtime-dir", directory])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ttybridge: no ttybridge runs with ")
    with Bridge(user, directory / "run", "vm=ws://127.0.0.1:1") as bridge:
        where = ("--runtime-dir", directory / "run")
        bridge.wait_message("WAITING")
        done = user.run(["ttybridge", "doctor", "vm7", *where])
        assert (done.returncode, done.stderr) == (1, "ttybridge: no console 'vm7'\n")
        code, record = doctor(user, "vm", *where)
        assert (code, record["state"]) == (1, "WAITING")


def test_a_name_needs_no_trio() -> None:
    code = (
        "import sys; from bridge.cli import main; main(['doctor', 'x', '--runtime-dir', '/no']);"
        "import bridge.doctor.session, bridge.doctor.diagnosis;"
        "print([m for m in ('trio', 'websockets', 'trio_websocket') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "[]\n"
