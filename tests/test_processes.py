"""Which processes are QEMUs, and who has a socket."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.vms import processes
from bridge.vms.processes import ROUND, YOUNG, Process, Processes
from tests.support.waiting import eventually


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Start a process that calls itself what it is told."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *words: str) -> "subprocess.Popen[bytes]":
        code = "import sys; sys.stdin.read()"
        process = subprocess.Popen(
            [name, "-c", code, *words], executable=sys.executable, stdin=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def look_for(known: Processes, pid: int) -> Process | None:
    return next((process for process in known.look() if process.pid == pid), None)


@pytest.mark.parametrize(
    "name",
    [
        "qemu-system-x86_64",
        "/usr/libexec/qemu-kvm",
        "kvm",
        "/nix/store/x/bin/.qemu-system-arm-wrapped",
    ],
)
def test_a_qemu_comes_and_goes(fake: Callable[..., "subprocess.Popen[bytes]"], name: str) -> None:
    known = Processes()
    known.look()
    started = fake(name, "-name", "", "a b")
    found = eventually(lambda: look_for(known, started.pid))
    assert found.argv == (name, "-c", "import sys; sys.stdin.read()", "-name", "", "a b")
    assert look_for(known, started.pid) is found
    started.kill()  # a zombie now, as nobody has waited for it
    assert eventually(lambda: not look_for(known, started.pid))


def test_a_qemu_by_another_name(tools: None) -> None:
    """What it calls itself is its own business; what it runs shows."""
    words = ["vm1", "-S", "-nodefaults", "-display", "none", "-serial", "null", "-m", "16"]
    with subprocess.Popen(words, executable=shutil.which("qemu-system-x86_64")) as process:
        known = Processes()
        assert eventually(lambda: look_for(known, process.pid)).argv[0] == "vm1"
        process.kill()


def test_what_only_speaks_of_qemu_is_none(fake: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    known = Processes()
    pids = [fake(name, "qemu-system-x86_64").pid for name in ("sudo", "/kvm/sh", "qemu-img")]
    for _ in range(2 * ROUND):
        assert not {process.pid for process in known.look()} & set(pids)


def test_a_shell_that_becomes_a_qemu_is_found(tmp_path: Path) -> None:
    """By exec, long after it was new."""
    code = (
        "import os, sys; sys.stdin.readline();"
        f"os.execv({sys.executable!r}, ['qemu-system-x86_64', '-c', 'import sys; sys.stdin.read()'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as shell:
        known = Processes()
        for _ in range(YOUNG + 1):
            assert not look_for(known, shell.pid)
        assert shell.stdin is not None
        shell.stdin.write(b"\n")
        shell.stdin.flush()
        eventually(lambda: Path(f"/proc/{shell.pid}/cmdline").read_bytes().startswith(b"qemu"))
        assert any(look_for(known, shell.pid) for _ in range(2 * ROUND))


def test_a_pid_that_comes_again_is_another_process(
    fake: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = fake("qemu-system-x86_64").pid
    known = Processes()
    first = eventually(lambda: look_for(known, pid))
    real = processes._started  # noqa: SLF001
    monkeypatch.setattr(processes, "_started", lambda entry: (real(entry) or 0) + 1)
    again = [found for _ in range(2 * ROUND) if (found := look_for(known, pid))]
    assert again
    assert first not in again


def test_a_look_is_cheap(figure: Callable[[str, list[float]], None]) -> None:
    """Twice a second beside 300 processes; the bar is 0.2 % of a core, 1 ms each."""
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(300)]
    try:
        known = Processes()
        known.look()
        costs = []
        for _ in range(50):
            before = time.process_time()
            known.look()
            costs.append(time.process_time() - before)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    figure("CPU time of 1000 looks beside 300 processes", [1000 * cost for cost in costs])
    assert sorted(costs)[len(costs) // 2] < 0.004  # far from the figure: the machine may be busy


def test_sockets_have_holders() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        inode = os.fstat(listener.fileno()).st_ino
        own = processes.sockets_of(os.getpid())
        assert own is not None
        assert own[listener.fileno()] == inode
        assert processes.holders({inode}) == {inode: (os.getpid(), processes.name_of(os.getpid()))}
    assert processes.holders({inode}) == {}


def test_files_are_read_as_the_process_would(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(["cat"], cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert processes.directory_of(process.pid) == str(tmp_path)
        assert processes.read_file_of(process.pid, "file") == "text"
        assert processes.read_file_of(process.pid, str(tmp_path / "file")) == "text"
        assert processes.read_file_of(process.pid, "fifo") is None  # and does not wait
        assert processes.read_file_of(process.pid, "nothing") is None


def test_the_version_is_read_from_the_executable() -> None:
    if (qemu := shutil.which("qemu-system-x86_64")) is None:
        pytest.skip("not installed: qemu-system-x86_64")
    said = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout
    with subprocess.Popen(
        [qemu, "-S", "-nodefaults", "-display", "none", "-monitor", "stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ) as process:
        found = processes.version_of(process.pid)
        process.kill()
    assert found is not None
    assert said.splitlines()[0] == f"QEMU emulator version {found}"
    assert processes.version_of(os.getpid()) is None
