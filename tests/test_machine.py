"""What is known of the machine behind a console, and done for it: by its process and by QMP."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.fakeqmp import fake_qmp
from tests.support.peer import HEAD, Peer
from tests.support.qemu import Qemu
from tests.support.user import User
from tests.support.waiting import eventually

Figure = Callable[..., None]

# A client of a websocket console that stays.
HOLDER = """
import socket, sys
s = socket.socket(socket.AF_UNIX) if sys.argv[1].startswith("/") else socket.socket()
s.connect(sys.argv[1] if sys.argv[1].startswith("/") else ("127.0.0.1", int(sys.argv[1])))
s.sendall(sys.argv[2].encode())
print(s.recv(1000)[:12], flush=True)
s.recv(1)
sys.stdin.read()
"""
REQUEST = HEAD.format(path="/", key="AAAAAAAAAAAAAAAAAAAAAA==", more="")


def settings(directory: Path, url: str, *lines: str) -> list[str]:
    file = directory / "config.toml"
    file.write_text("\n".join(["[consoles.vm]", f'url = "{url}"', *lines, ""]))
    file.chmod(0o644)
    return ["--config", str(file)]


def second_qmp(directory: Path) -> tuple[Path, list[str]]:
    """Besides the one that the tests have."""
    path = directory / "qmp2"
    return path, ["-qmp", f"unix:{path},server=on,wait=off"]


# --- status


@pytest.mark.parametrize("told", [True, False])
def test_status_tells_of_the_machine(user: User, directory: Path, boot: Boot, told: bool) -> None:
    """By the QMP socket of the settings, or by the one on QEMU's command line that is free."""
    path, more = second_qmp(directory)
    # Of several sockets the first is asked.
    vm = boot("echofifo", more=more)
    lines = [f'qmp = "unix://{path}"'] if told else []
    if not told:
        vm.leave_qmp()
    with Bridge(user, directory / "run", *settings(directory, vm.url, *lines)) as bridge:
        bridge.wait_message("vm: ONLINE")
        state = eventually(lambda: machine_state(bridge))
        assert state == "running"
        assert bridge.status()["machine"]["qemu"].startswith("7.")
        if told:
            vm.qmp("stop")
            eventually(lambda: machine_state(bridge) == "paused")
        done = user.run(["ttybridge", "status", "--runtime-dir", directory / "run"])
        assert f"machine      {'paused' if told else 'running'}, QEMU 7." in done.stdout


def machine_state(bridge: Bridge) -> str | None:
    machine = bridge.status()["machine"]
    return machine["state"] if machine is not None else None


def test_a_busy_qmp_socket_neither_delays_nor_disturbs(
    user: User, directory: Path, boot: Boot, figure: Figure
) -> None:
    vm = boot("echofifo")  # whose QMP the test has
    lines = [f'qmp = "unix://{vm.qmp_path}"']
    with Bridge(user, directory / "run", *settings(directory, vm.url, *lines)) as bridge:
        bridge.wait_message("vm: ONLINE")
        status = eventually(lambda: bridge.status() if bridge.status()["machine"] else None)
        assert status["machine"]["state"] is None
        assert status["machine"]["qemu"].startswith("7.")  # as its program says
        assert vm.qmp("query-status")["status"] == "running"
        figure("status where another has the QMP socket", status_seconds(bridge))


def status_seconds(bridge: Bridge) -> list[float]:
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        bridge.status()
        seconds.append(time.monotonic() - began)
    return seconds


def test_a_stopped_qemu_does_not_delay(
    user: User, directory: Path, boot: Boot, figure: Figure
) -> None:
    vm = boot("echofifo")
    vm.leave_qmp()
    lines = [f'qmp = "unix://{vm.qmp_path}"']
    with Bridge(user, directory / "run", *settings(directory, vm.url, *lines)) as bridge:
        bridge.wait_message("vm: ONLINE")
        eventually(lambda: machine_state(bridge) == "running")
        vm.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: machine_state(bridge) is None)
            figure("status where QEMU is stopped", status_seconds(bridge))
        finally:
            vm.process.send_signal(signal.SIGCONT)
        eventually(lambda: machine_state(bridge) == "running")


@contextmanager
def holder(user: User, vm: Qemu, place: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the user's that has the console."""
    process = user.popen(
        ["python", "-c", HOLDER, place, REQUEST], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert b"101" in process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("unix", [False, True])
def test_status_names_the_holder(user: User, directory: Path, boot: Boot, unix: bool) -> None:
    vm = boot("echofifo", unix=unix)
    place = str(vm.path) if unix else str(vm.port)
    with holder(user, vm, place) as process:
        with Bridge(user, directory / "run", *settings(directory, vm.url)) as bridge:
            bridge.wait_message("vm: BUSY")
            name = eventually(lambda: bridge.status()["holder"])
            assert name.endswith(f", pid {process.pid}")
            assert name.startswith("python")
            done = user.run(["ttybridge", "status", "--runtime-dir", directory / "run"])
            assert f"held by {name}" in done.stdout
            process.kill()
            bridge.wait_message("vm: ONLINE")
            assert bridge.status()["holder"] is None


def test_of_another_machine_qmp_tells_the_holder(user: User, directory: Path, boot: Boot) -> None:
    """And he is not thrown out: whether he is still there can't be seen."""
    vm = boot("deaf")
    vm.leave_qmp()
    url = f"ws://127.1:{vm.port}"  # a name as good as any other machine's
    lines = [f'qmp = "unix://{vm.qmp_path}"']
    with Peer(vm.port) as peer:
        peer.answer()
        host, port = peer.socket.getsockname()
        with Bridge(user, directory / "run", *settings(directory, url, *lines)) as bridge:
            bridge.wait_message("vm: BUSY")
            eventually(lambda: bridge.status()["holder"] == f"{host}:{port}")
            assert f"not rescued: {host}:{port} has it, and from here" in rescue(user, bridge)
        assert vm.process.poll() is None


# --- input = "auto"


def newer(directory: Path) -> list[str]:
    """This machine's QEMU, which says of itself that it is a newer one."""
    program = directory / "qemu-system-x86_64"
    original = Path(shutil.which("qemu-system-x86_64") or "").read_bytes()
    at = original.index(b"QEMU emulator version ") + len(b"QEMU emulator version ")
    program.write_bytes(original[:at] + b"9" + original[at + 1 :])
    program.chmod(0o755)
    # It would look for its parts beside itself.
    return ["env", "QEMU_MODULE_DIR=/usr/lib/x86_64-linux-gnu/qemu", str(program)]


@pytest.mark.parametrize(
    ("new", "lines", "mode"),
    [
        (False, [], "echo"),
        (True, [], "direct"),
        (True, ['qemu = "7.2"'], "echo"),
        (True, ['input = "echo"'], "echo"),
    ],
)
def test_the_program_that_runs_says_how_input_is_clocked(
    user: User, directory: Path, boot: Boot, new: bool, lines: list[str], mode: str
) -> None:
    program = newer(directory) if new else ["qemu-system-x86_64"]
    vm = boot(
        "echofifo", program=program, more=["-L", "/usr/share/qemu", "-L", "/usr/share/seabios"]
    )
    with Bridge(user, directory / "run", *settings(directory, vm.url, *lines)) as bridge:
        bridge.wait_message("vm: ONLINE")
        # What is learnt of the machine is what may change the mode.
        version = eventually(lambda: bridge.status()["machine"])["qemu"]
        assert version.startswith("9." if new else "7.")
        assert bridge.status()["input"]["mode"] == mode
        with Client(bridge.raw) as client:
            client.reach_echo()
        assert bridge.status()["input"]["mode"] == mode
        user.run(["ttybridge", "reload", "--exec", "--runtime-dir", directory / "run"])
        assert bridge.status()["input"]["mode"] == mode
        assert eventually(lambda: bridge.status()["machine"])["qemu"] == version


@pytest.mark.parametrize(("version", "mode"), [((10, 0, 2), "direct"), ((8, 2, 2), "echo")])
def test_qmp_says_it_where_no_process_is_seen(
    user: User, directory: Path, version: tuple[int, int, int], mode: str
) -> None:
    with Fake("echo") as vm, fake_qmp(user, directory / "qmp", version) as asked:
        lines = [f'qmp = "unix://{directory / "qmp"}"']
        with Bridge(user, directory / "run", *settings(directory, vm.url, *lines)) as bridge:
            bridge.wait_message("vm: ONLINE")
            eventually(lambda: "query-version" in asked)
            eventually(lambda: bridge.status()["input"]["mode"] == mode)
            text = ".".join(map(str, version))
            eventually(lambda: (bridge.status()["machine"] or {}).get("qemu") == text)


# --- rescue


def connect(vm: Qemu) -> socket.socket:
    """A client that has asked for the websocket."""
    if vm.url.startswith("ws+unix"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(vm.path))
    else:
        client = socket.create_connection(("127.0.0.1", vm.port))
    client.sendall(REQUEST.encode())
    return client


def lock(vm: Qemu) -> None:
    """Leave amid a frame's header: QEMU waits for the rest of it for ever.

    Not if it has looked between the header and the end: so it is tried until it is true.
    """
    for _ in range(20):
        with connect(vm) as client:
            seen = b""
            while b"\r\n\r\n" not in seen:
                seen += client.recv(1000)
            client.sendall(b"\x82")
        with connect(vm) as client:
            client.settimeout(1)
            try:
                served = client.recv(1000)
            except TimeoutError:
                return
            assert served  # not locked: leave as one should, and try again
            client.shutdown(socket.SHUT_WR)
            client.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1000):
                    pass
    raise AssertionError("QEMU let go each time")


def rescue(user: User, bridge: Bridge) -> str:
    """The command; what it says against it."""
    done = user.run(["ttybridge", "rescue", "vm", "--runtime-dir", str(bridge.directory)])
    assert done.returncode == (1 if done.stderr else 0)
    return done.stderr.strip()


@pytest.mark.parametrize("kind", ["tcp", "unix", "telnet"])
def test_a_locked_console_is_rescued(user: User, directory: Path, boot: Boot, kind: str) -> None:
    """And is where it was before, with the same manners."""
    vm = boot("echofifo", unix=kind == "unix", telnet=kind == "telnet")
    vm.leave_qmp()
    lines = [f'qmp = "unix://{vm.qmp_path}"']
    if kind == "telnet":
        lines.append('upstream = "telnet"')
    lock(vm)
    with Bridge(user, directory / "run", *settings(directory, vm.url, *lines)) as bridge:
        bridge.wait_message("vm: BUSY: nobody has this console.*ttybridge rescue")
        assert rescue(user, bridge) == ""
        bridge.wait_message("vm: ONLINE")
        with Client(bridge.raw) as client:
            client.reach_echo()
            client.type(bytes(range(256)))
            assert client.read_exactly(256) == bytes(range(256))
        assert rescue(user, bridge) == "ttybridge: vm: not rescued: it is ONLINE, not locked"


@pytest.mark.parametrize("unix", [False, True])
def test_nobody_is_thrown_out(user: User, directory: Path, boot: Boot, unix: bool) -> None:
    vm = boot("echofifo", unix=unix)
    vm.leave_qmp()
    place = str(vm.path) if unix else str(vm.port)
    with holder(user, vm, place) as process:
        with Bridge(user, directory / "run", *settings(directory, vm.url)) as bridge:
            bridge.wait_message("vm: BUSY")
            said = rescue(user, bridge)
            assert said.startswith("ttybridge: vm: not rescued: it is not locked: python")
            assert said.endswith(f"pid {process.pid} has it")
            assert process.poll() is None


def test_no_rescue_without_qmp(user: User, directory: Path) -> None:
    """A server that is no QEMU's accepts one client as QEMU does."""
    with Fake("echo") as vm, Peer(vm.port) as peer:
        peer.answer()
        with Bridge(user, directory / "run", *settings(directory, vm.url)) as bridge:
            bridge.wait_message("vm: BUSY")
            assert "another user's process has it" in rescue(user, bridge)
