"""What another user of this machine may call a QEMU, and what he may have it say."""

import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.settings.url import UnixAddress, UpstreamUrl
from bridge.vms import processes
from bridge.vms.discovery import Kernel, examine
from bridge.vms.processes import Process
from bridge.vms.qemuargs import parse_argv
from bridge.vms.qmp import QmpError
from bridge.vms.qmpsync import QmpSession
from bridge.vms.vms import MAX_FILES, Vm, Vms, inquire
from tests.support.bridge import Bridge
from tests.support.fake import Fake
from tests.support.user import User

CHARDEV = b"socket,id=c,websocket=on,server=on"
LINES = [
    [b"-chardev", CHARDEV + b",path=/tmp/\xff.sock", b"-serial", b"chardev:c"],
    [b"-chardev", CHARDEV + b",path=/tmp/\x1b]0;own\x07", b"-serial", b"chardev:c"],
    [b"-chardev", CHARDEV + b",host=\x1b]0;own\x07,port=4555", b"-serial", b"chardev:c"],
    [b"-chardev", CHARDEV + b",host=a..b,port=99999", b"-serial", b"chardev:c"],
    [b"-readconfig", b"/nonexistent", b"-qmp", b"tcp:127.0.0.1:99999,server=on"],
    [b"-readconfig", b"/nonexistent", b"-qmp", b"tcp:a..b:999,server=on"],
    [b"-readconfig", b"/x", b"-qmp", b"unix:/tmp/\x1b[31mRED\n<3>forged line,server=on"],
    [b"-name", b"\x1b[2J\n<3>forged line", b"-serial", b"tcp:127.0.0.1:0,server=on"],
]


@contextmanager
def pretender(uid: int, *words: bytes) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of ``uid`` that calls itself a QEMU with such a command line."""
    code = b"import sys; sys.stdin.read()"
    with subprocess.Popen(
        [b"qemu-system-x86_64", b"-c", code, *words],
        executable="/usr/bin/python3",
        stdin=subprocess.PIPE,
        user=uid,
    ) as process:
        yield process
        process.kill()


def test_no_command_line_ends_a_service_or_writes_to_a_terminal(
    user: User, intruder: User, directory: Path
) -> None:
    for who in (intruder, user):
        with ExitStack() as stack:
            for words in LINES:
                stack.enter_context(pretender(who.uid, *words))
            vm = stack.enter_context(Fake("echo"))
            run = directory / who.name
            with Bridge(user, run, f"vm={vm.url}", "--discover") as bridge:
                bridge.wait_message("vm: ONLINE")
                said = user.run(["ttybridge", "discover"])
                assert said.returncode == 0, said.stderr
                status = user.run(["ttybridge", "status", "vm", "--runtime-dir", run])
                assert status.returncode == 0
                printed = said.stdout + said.stderr + "\n".join(bridge.messages)
                assert "Traceback" not in printed
                assert "\n<3>" not in printed
                assert all(c.isprintable() or c == "\n" for c in printed), printed
                assert bridge.stop() == 0


WORDS = st.one_of(
    st.binary(max_size=40).filter(lambda word: b"\0" not in word),
    st.sampled_from(
        [b"-serial", b"-chardev", b"-qmp", b"-device", b"-mon", b"-name", b"chardev:c"]
    ),
    st.builds(
        lambda head, key, value: head + key + value.replace(b"\0", b""),
        st.sampled_from([b"", b"socket,id=c,server=on,", b"websocket:", b"tcp:", b"unix:"]),
        st.sampled_from([b"", b"host=", b"port=", b"path=", b"fd=", b"h:", b"host=h,port="]),
        st.one_of(st.binary(max_size=12), st.integers().map(lambda n: b"%d" % n)),
    ),
)


@given(st.lists(WORDS, max_size=8))
def test_whatever_command_line_is_made_sense_of(words: list[bytes]) -> None:
    argv = ("qemu-system-x86_64", *map(os.fsdecode, words))
    for pid in (os.getpid(), 1 << 22):  # ours, and one into which we can't see
        vm = Vm(Process(pid, 0, argv), parse_argv(argv, lambda _path: None))
        for found in examine(vm, KERNEL):
            if found.url is not None:
                UpstreamUrl.parse(found.url)


KERNEL = Kernel()


def test_a_path_that_is_no_utf8_is_a_path() -> None:
    url = UpstreamUrl.parse("ws+unix:///tmp/%FF.sock")
    assert url.address == UnixAddress(os.fsdecode(b"/tmp/\xff.sock"))


def test_files_that_are_none_are_not_opened(tmp_path: Path) -> None:
    before = processes.descriptors_of(os.getpid())
    for path in (str(tmp_path), "/dev/null", "nothing", "with\0zero"):
        assert processes.read_file_of(os.getpid(), path) is None
    assert processes.descriptors_of(os.getpid()) == before


def test_a_lease_on_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Who opens the file waits 45 s for its holder to let go, else (fcntl(2), F_SETLEASE)."""
    file = tmp_path / "config"
    file.write_text("text")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what the holder is told by
    try:
        with file.open("r+") as held:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            began = time.monotonic()
            assert processes.read_file_of(os.getpid(), str(file)) is None
            assert time.monotonic() - began < 10
    finally:
        signal.signal(signal.SIGIO, before)


def test_a_command_line_beyond_all_bounds_is_no_machines() -> None:
    with pretender(os.geteuid(), *[b"-chardev", b""] * 5000) as process:
        assert not [vm for vm in Vms().look() if vm.process.pid == process.pid]


def test_a_terminal_in_a_command_line_is_not_made_ours() -> None:
    """Whoever opens a terminal and has none has it from then on: its ^C would end him."""
    master, slave = pty.openpty()
    code = (
        "import os, sys\n"
        "from bridge.vms.processes import read_file_of\n"
        "assert read_file_of(os.getpid(), sys.argv[1]) is None\n"
        "try: os.open('/dev/tty', os.O_RDONLY)\n"
        "except OSError: print('none')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, os.ttyname(slave)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    os.close(master)
    os.close(slave)
    assert done.stdout == "none\n"


def test_only_so_many_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text('[name]\n  guest = "vm"\n')
    words = [b"-readconfig", bytes(file)] * (MAX_FILES + 3)
    with pretender(os.geteuid(), *words) as process:
        (vm,) = [vm for vm in Vms().look() if vm.process.pid == process.pid]
    assert vm.name == "vm"
    assert len(vm.machine.unread) == 3


@pytest.mark.parametrize(
    "filename",
    ["websocket:127.0.0.1:" + "9" * 5000, "unix:/tmp/\ud800", "websocket:h:99999,server=on"],
)
def test_whatever_qmp_tells_raises_qmp_errors_only(tmp_path: Path, filename: str) -> None:
    row = {"label": "c", "filename": filename, "frontend-open": True}
    with answering(tmp_path / "qmp", {"query-chardev": [row]}) as address:
        with suppress(QmpError), QmpSession(address) as session:
            told = session.converse(inquire())
            argv = ("qemu-system-x86_64",)
            vm = Vm(Process(os.getpid(), 0, argv), parse_argv(argv, lambda _path: None), told)
            assert [found.url for found in examine(vm, KERNEL)] in ([], [None])


@contextmanager
def answering(path: Path, answers: dict[str, Any]) -> Iterator[UnixAddress]:
    """A QMP server that says what it is told to."""

    def serve() -> None:
        client, _ = listener.accept()
        with suppress(OSError), client, client.makefile("rwb", buffering=0) as stream:
            numbers = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
            stream.write(json.dumps({"QMP": {"version": numbers}}).encode() + b"\r\n")
            for line in stream:
                request = json.loads(line)
                default: Any = {} if request["execute"] != "qom-list" else []
                answer = answers.get(request["execute"], default)
                stream.write(json.dumps({"id": request["id"], "return": answer}).encode() + b"\r\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield UnixAddress(str(path))
        thread.join(10)
