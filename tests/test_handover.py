"""A new process of the same service: nobody who is attached notices, and nothing is lost."""

import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from bridge.base.errors import StartError
from bridge.base.handover import Bag, RecordError
from bridge.commands.client import Client as Control
from bridge.kernel import succession
from bridge.service import process
from bridge.service.heritage import Heritage
from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.user import User
from tests.support.waiting import eventually
from tests.support.witness import Witness

# A client of the PTY: passes on what it reads.
READER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
os.write(1, b"open\\n")
while True:
    os.write(1, os.read(fd, 65536))
"""


def pid_of(directory: Path) -> int:
    with Control(directory) as control:
        pid: int = control.ask("status")["service"]["pid"]
        return pid


def test_a_flood_goes_on_for_all_who_are_attached(
    user: User, directory: Path, boot: Boot, repetitions: int
) -> None:
    vm = boot("flood")
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        bridge.wait_message("vm: ONLINE")
        place = bridge.places[0]
        port = int(place["telnet"].rpartition(":")[2])
        with (
            socket.create_connection(bridge.raw) as raw,
            socket.create_connection(("127.0.0.1", port)) as telnet,
            user.popen(
                ["python", "-c", READER, bridge.link], stdout=subprocess.PIPE, bufsize=0
            ) as reader,
        ):
            assert reader.stdout is not None
            assert reader.stdout.read(5) == b"open\n"
            bridge.wait_attached(3)
            # The telnet client's first bytes are the greeting.
            witnesses = [
                Witness(raw.fileno()),
                Witness(telnet.fileno()),
                Witness(reader.stdout.fileno()),
            ]
            for witness in witnesses:
                witness.__enter__()
            for number in range(repetitions):
                before = [witness.lines for witness in witnesses]
                done = user.run(
                    ["ttybridge", "reload", "--exec", "--runtime-dir", directory / "run"]
                )
                assert (done.returncode, done.stderr) == (0, ""), number
                for witness, lines in zip(witnesses, before, strict=True):
                    eventually(partial(witness.has_read, lines + 500))
                assert [w.wrong for w in witnesses] == [[], [], []], number
                assert not any(w.ended for w in witnesses)
            assert bridge.process.poll() is None
            status = bridge.status()
            assert status["bytes"]["skipped"] == 0
            assert status["connections"] == 1
            assert len(bridge.messages) == 1, "ONLINE is said once"
            reader.kill()
            raw.shutdown(socket.SHUT_RDWR)
            telnet.shutdown(socket.SHUT_RDWR)
            for witness in witnesses:
                witness.__exit__()
        assert bridge.stop() == 0
    eventually(lambda: not vm.connected(), limit=2)


def test_input_goes_on_and_nothing_typed_is_lost(
    user: User, directory: Path, boot: Boot, repetitions: int
) -> None:
    """A paste under way, from one who stays and one who has left."""
    vm = boot("echofifo")
    with (
        Bridge(user, directory / "run", f"vm={vm.url}") as bridge,
        Client(bridge.raw) as client,
    ):
        bridge.wait_message("vm: ONLINE")
        bridge.wait_attached()
        client.type(b"?" * 4)
        client.read_exactly(1)
        client.seen = b""
        for number in range(repetitions):
            mark = b"<%d>" % number
            text = b"".join(b"%04d," % n for n in range(600))
            client.type(b"\n" + mark + text)
            bridge.process.send_signal(signal.SIGUSR2)
            client.type(text + mark)
            seen = client.read_until(mark + text + text + mark)
            assert seen.endswith(b"\n" + mark + text + text + mark), number


def test_a_guest_without_a_connection_is_reached_by_the_new_process(
    user: User, directory: Path
) -> None:
    with Fake("echo") as vm, Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        bridge.wait_message("vm: ONLINE")
        with Client(bridge.raw) as client:
            bridge.wait_attached()
            vm.kill()
            seen = bridge.wait_message("vm: WAITING")
            user.run(["ttybridge", "reload", "--exec", "--runtime-dir", directory / "run"])
            vm.restart()
            bridge.wait_message("vm: ONLINE", after=seen)
            client.type(b"k")
            client.read_until(b"k")


def test_a_console_that_was_added_goes_on(user: User, directory: Path) -> None:
    run = directory / "run"
    with Fake("echo") as vm, Bridge(user, run, "vm=ws://127.0.0.1:9") as bridge:
        bridge.wait_message("vm: WAITING")
        user.run(["ttybridge", "add", "two", vm.url, "--runtime-dir", run])
        bridge.wait_message("two: ONLINE")
        user.run(["ttybridge", "reload", "--exec", "--runtime-dir", run])
        assert pid_of(run) == bridge.process.pid
        done = user.run(["ttybridge", "send", "two", "x", "--runtime-dir", run])
        assert (done.returncode, done.stderr) == (0, "")


def test_attach_stays(user: User, directory: Path) -> None:
    run = directory / "run"
    with Fake("echo") as vm, Bridge(user, run, f"vm={vm.url}") as bridge:
        bridge.wait_message("vm: ONLINE")
        with Control(run) as control:
            stream = control.attach("vm", replay=0)
            stream.settimeout(20)
            bridge.process.send_signal(signal.SIGUSR2)
            stream.sendall(b"still here")
            seen = b""
            while seen != b"still here":
                seen += stream.recv(100)


def test_numbers_stay_unique(user: User, directory: Path) -> None:
    run = directory / "run"
    with Bridge(user, run, "vm=ws://127.0.0.1:9") as bridge:
        for _ in range(2):
            with Client(bridge.raw):
                bridge.wait_attached()
            eventually(lambda: not bridge.status()["attachments"])
        with Client(bridge.raw):
            bridge.wait_attached()
            user.run(["ttybridge", "reload", "--exec", "--runtime-dir", run])
            with Client(bridge.raw), Client(bridge.raw), Client(bridge.raw):
                bridge.wait_attached(4)
                numbers = [attached["id"] for attached in bridge.status()["attachments"]]
                assert numbers[0] == 3
                assert len(set(numbers)) == 4, numbers


def test_nothing_is_given_up_where_the_program_is_gone(
    user: User, directory: Path, base: Path
) -> None:
    """As after an update that went elsewhere: the service goes on as it is."""
    script = directory / "started-by"
    script.write_bytes((base / "venv" / "bin" / "ttybridge").read_bytes())
    script.chmod(0o755)
    run = directory / "run"
    command: list[str | Path] = [
        script,
        "run",
        "vm=ws://127.0.0.1:9",
        "--runtime-dir",
        run,
        "--json",
    ]
    with user.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        script.unlink()
        done = user.run(["ttybridge", "reload", "--exec", "--runtime-dir", run])
        assert done.returncode == 1
        assert f"not handed over: {script} cannot be read" in done.stderr
        assert pid_of(run) == process.pid
        process.terminate()
        assert process.wait(10) == 0


def test_the_demo_says_that_it_cannot(user: User, bridge: Bridge) -> None:
    bridge.process.send_signal(signal.SIGUSR2)
    bridge.wait_message("not handed over: the built-in console lives in this process")
    done = user.run(["ttybridge", "reload", "--exec", "--runtime-dir", bridge.directory])
    assert done.returncode == 1
    assert "not handed over" in done.stderr


def test_a_record_comes_out_as_it_went_in() -> None:
    read, write = os.pipe()
    bag = Bag()
    record = {"pipe": bag.put(read), "text": bag.put_bytes(b"\0\xff"), "none": bag.put_bytes(b"")}
    again = Bag()
    found = succession.unpack(succession.pack(record, bag), again)
    assert found == record
    assert again.take_bytes(found["text"]) == b"\0\xff"
    assert again.take_bytes(found["none"]) == b""
    assert again.take(found["pipe"]) == read
    with pytest.raises(RecordError, match="missing"):
        again.take(found["pipe"])
    os.close(read)
    os.close(write)


def test_connections_with_high_descriptors_are_left_too() -> None:
    """select(2) knows none above 1023."""
    ours, theirs = socket.socketpair()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        high = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD_CLOEXEC, 1500)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    ours.close()
    bag = Bag()
    bag.put(high, upstream=True)
    threading.Timer(0.1, theirs.shutdown, [socket.SHUT_WR]).start()
    succession.close(bag)
    theirs.settimeout(5)
    assert theirs.recv(1) == b""
    theirs.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(high)


def test_without_a_descriptor_for_the_record_qemu_is_left() -> None:
    """It needs one, and there may be none; nor one to leave by."""
    ours, theirs = socket.socketpair()
    bag = Bag()
    bag.put(ours.fileno(), upstream=True)
    theirs.shutdown(socket.SHUT_WR)
    theirs.settimeout(5)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(StartError, match="not handed over: Too many open files"):
            succession.become({}, bag)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert theirs.recv(1) == b""
    os.fstat(ours.fileno())  # the owner's still, who will close it
    ours.close()
    theirs.close()


async def test_without_descriptors_for_what_is_left_to_us_qemu_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They were enough for the process before; to be sure of each connection takes one more."""
    pairs, bag = [socket.socketpair() for _ in range(3)], Bag()
    for ours, theirs in pairs:
        bag.put(ours.detach(), upstream=True)
        theirs.shutdown(socket.SHUT_WR)
        theirs.settimeout(5)
    monkeypatch.setenv(succession.VARIABLE, str(succession.pack({}, bag)))
    monkeypatch.setattr(process, "hold_signals", lambda: None)
    monkeypatch.setattr(succession, "begin_anew", lambda: sys.exit(3))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(SystemExit):
            await Heritage.claim()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for _, theirs in pairs:
        assert theirs.recv(1) == b""  # the end of the stream, not a reset
        theirs.close()


def test_a_record_of_another_format_is_refused_and_its_connections_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    other, kept = os.pipe()
    bag = Bag()
    record = {"upstream": bag.put(ours.detach(), upstream=True), "pipe": bag.put(other)}
    monkeypatch.setattr(succession, "FORMAT", 0)
    file = succession.pack(record, bag)
    monkeypatch.undo()
    threading.Timer(0.1, theirs.shutdown, [socket.SHUT_WR]).start()
    found = Bag()
    with pytest.raises(RecordError, match="format is 0, ours 2"):
        succession.unpack(file, found)
    succession.close(found)
    theirs.settimeout(5)
    assert theirs.recv(1) == b""  # left: the end of the stream, not a reset
    theirs.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(other)
    os.close(kept)


@pytest.mark.parametrize("junk", [b"", b"\0" * 8, b"\0" * 7 + b"\x02{}", json.dumps([]).encode()])
def test_junk_is_no_record(junk: bytes) -> None:
    file = os.memfd_create("junk")
    os.write(file, junk)
    with pytest.raises(RecordError):
        succession.unpack(file, Bag())


class Passed:
    """A connection to a console's server that is passed to a new service; a context."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.theirs.close()

    def popen(self, user: User, record: object, *command: str | Path) -> "subprocess.Popen[bytes]":
        """Start a service that is left the connection, and ``record`` about it."""
        bag = Bag()
        bag.put(self.ours.fileno(), upstream=True)
        file = succession.pack(record, bag)  # type: ignore[arg-type]
        process = user.popen(
            ["ttybridge", *command],
            {succession.VARIABLE: str(file)},
            pass_fds=[file, self.ours.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.close(file)
        self.ours.close()
        return process

    def wait_left(self) -> None:
        """Wait for the end of the stream, which is not the end of the connection."""
        assert self.theirs.recv(1) == b""
        self.theirs.sendall(b"last words")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"service": {"directory": "/elsewhere"}}, "it is of the runtime directory /elsewhere"),
        ({"service": {}}, "KeyError: 'directory'"),
        (1, "it cannot be read"),
    ],
    ids=["other", "incomplete", "nonsense"],
)
def test_what_cannot_be_used_is_said_and_left_and_all_begins_anew(
    user: User, directory: Path, record: object, reason: str
) -> None:
    run = directory / "run"
    if isinstance(record, dict):
        record |= {"lock": None, "control": None}
    with Passed() as passed:
        words = ["run", "vm=ws://127.0.0.1:9", "--json", "--runtime-dir", str(run)]
        with passed.popen(user, record, *words) as process:
            passed.wait_left()
            passed.theirs.shutdown(socket.SHUT_WR)
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["name"] == "vm"
            assert pid_of(run) == process.pid
            process.terminate()
            _, said = process.communicate(timeout=20)
    first, *others = said.decode().splitlines()
    assert first == (
        f"what the service before has left is not used, and everything begins anew: {reason}"
    )
    assert not [line for line in others if not line.startswith("vm: ")], others


def test_what_others_pass_is_none_of_ours(user: User, directory: Path) -> None:
    """A socket unit's, say."""
    environment = {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "unknown"}
    run = directory / "run"
    script = (
        "import os, sys; os.dup2(os.open('/dev/null', 0), 3);"
        "os.environ['LISTEN_PID'] = str(os.getpid()); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    words = ["ttybridge", "run", "vm=ws://127.0.0.1:9", "--json", "--runtime-dir", str(run)]
    with user.popen(
        ["python", "-c", script, *words],
        environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["name"] == "vm"
        process.terminate()
        _, said = process.communicate(timeout=20)
        assert all(line.startswith(b"vm: ") for line in said.splitlines()), said


def test_a_configuration_that_is_bad_by_then_leaves_too(user: User, directory: Path) -> None:
    config = directory / "config.toml"
    config.write_text("nonsense")
    config.chmod(0o644)
    with Passed() as passed, passed.popen(user, {}, "run", "--config", config) as process:
        passed.wait_left()
        passed.theirs.shutdown(socket.SHUT_WR)
        assert process.wait(20) == 78


def test_nothing_is_handed_over_to_one_that_would_not_start(user: User, directory: Path) -> None:
    config = directory / "config.toml"
    config.write_text('[consoles.vm]\nurl = "ws://127.0.0.1:9"\n')
    config.chmod(0o644)
    run = directory / "run"
    with Bridge(user, run, "--config", str(config)) as bridge:
        bridge.places  # noqa: B018
        config.write_text("nonsense")
        done = user.run(["ttybridge", "reload", "--exec", "--runtime-dir", run])
        assert (done.returncode, str(config) in done.stderr) == (78, True), done.stderr
        assert pid_of(run) == bridge.process.pid
        assert bridge.status()["name"] == "vm"
