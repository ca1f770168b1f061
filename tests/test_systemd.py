"""Under a real ``systemd --user``: installed, started, ended, kept.

Started by root for an ordinary user; without that, skipped loudly (tests/support/systemd).
"""

import fcntl
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from bridge.commands.client import Client as Control
from tests.conftest import Boot
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import Qemu
from tests.support.systemd import UNIT, UserManager
from tests.support.terminal import Terminal
from tests.support.user import User, share
from tests.support.waiting import eventually
from tests.support.witness import Witness
from tests.test_wsserver import UPGRADE, head, masked

KEEPER = Path(__file__).parent / "support" / "keeper.py"
URL = "ws://127.0.0.1:1"  # nobody listens there


@pytest.fixture
def manager(user: User, directory: Path) -> Iterator[UserManager]:
    with UserManager(user, directory) as manager:
        yield manager


def configure(manager: UserManager, text: str) -> Path:
    file = manager.home / ".config/ttybridge/config.toml"
    manager.run("mkdir", "-p", file.parent)
    file.write_text(text)
    file.chmod(0o644)
    return file


def install(manager: UserManager, *words: str) -> str:
    done = manager.run("ttybridge", "install", *words)
    assert done.returncode == 0, done.stderr + manager.messages
    return done.stdout


def active(manager: UserManager) -> str:
    return manager.show("ActiveState")


def kill(manager: UserManager) -> None:
    """Have the service die, and systemd start it again."""
    pid = manager.pid()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: manager.pid() not in {0, pid} and active(manager) == "active")


def test_install_now_runs_it_and_uninstall_ends_it(manager: UserManager) -> None:
    configure(manager, f'[consoles.vm1]\nurl = "{URL}"\n')
    out = install(manager, "--now")
    assert "started\n" in out
    assert "loginctl enable-linger\n" in out
    assert active(manager) == "active"
    assert manager.systemctl("is-enabled", UNIT) == "enabled\n"
    assert (manager.runtime / "ttybridge" / "vm1").is_symlink()
    pid = manager.pid()
    for words in (["--now"], []):
        out = install(manager, *words)
        assert "unchanged: " in out
        assert "running; to make it anew" in out
    assert manager.pid() == pid
    assert "removed " in install(manager, "--uninstall")
    assert active(manager) == "inactive"
    assert not (manager.runtime / "ttybridge" / "vm1").is_symlink()
    assert not (manager.home / ".config/systemd/user" / UNIT).exists()


def test_another_unit_is_taken_up_by_install_now(manager: UserManager) -> None:
    install(manager, "--now")
    other = configure(manager, f'[consoles.vm1]\nurl = "{URL}"\n').rename(
        manager.home / ".config" / "100% 'other' \"$HOME\".toml"
    )
    install(manager, "--now", "--config", str(other))
    assert active(manager) == "active"
    assert (manager.runtime / "ttybridge" / "vm1").is_symlink()


def test_an_installation_with_blanks_and_percent_signs_in_its_path(
    manager: UserManager, base: Path
) -> None:
    venv = manager.home / "a b %h $HOME é" / "venv"
    manager.run("mkdir", venv.parent)
    assert manager.run("python3", "-m", "venv", "--without-pip", venv).returncode == 0
    share(base, venv)
    # What stands in the home directory must not be taken for us.
    (manager.home / "bridge").mkdir()
    (manager.home / "bridge" / "__init__.py").write_text("raise SystemExit(1)")
    done = manager.run(venv / "bin" / "python", "-P", "-m", "bridge", "install", "--now")
    assert (done.returncode, done.stderr) == (0, "")
    command = Path(f"/proc/{manager.pid()}/cmdline").read_text().split("\0")
    assert command[0] == str(venv / "bin" / "python")


def test_the_status_tells_the_states(manager: UserManager) -> None:
    configure(manager, f'[consoles.vm1]\nurl = "{URL}"\n[consoles.vm2]\nurl = "{URL}"\n')
    install(manager, "--now")
    eventually(lambda: manager.show("StatusText") == "2 consoles: 2 waiting", limit=5)
    assert 'Status: "2 consoles: 2 waiting"' in manager.systemctl("status", UNIT)


def test_reload_takes_up_the_configuration(manager: UserManager) -> None:
    configure(manager, "")
    install(manager, "--now")
    pid = manager.pid()
    configure(manager, f'[consoles.vm1]\nurl = "{URL}"\n')
    manager.systemctl("reload", UNIT)
    link = manager.runtime / "ttybridge" / "vm1"
    eventually(link.is_symlink, limit=5)
    assert (active(manager), manager.pid()) == ("active", pid)


@pytest.mark.parametrize(
    ("broken", "code"), [("config", "78"), ("command", "2")], ids=["configuration", "usage"]
)
def test_what_does_not_mend_itself_is_not_tried_again(
    manager: UserManager, base: Path, broken: str, code: str
) -> None:
    configure(manager, "nonsense" if broken == "config" else "")
    install(manager)
    if broken == "command":
        command = f"{base}/venv/bin/python -m bridge --nonsense"
        manager.drop_in(f"[Service]\nExecStart=\nExecStart={command}\n")
    assert manager.run("systemctl", "--user", "start", UNIT).returncode == 1
    assert active(manager) == "failed"
    assert manager.show("ExecMainStatus") == code
    assert manager.show("NRestarts") == "0"


def test_one_that_is_killed_is_started_again(manager: UserManager) -> None:
    install(manager, "--now")
    kill(manager)
    assert manager.show("NRestarts") == "1"


@pytest.mark.long
def test_one_that_hangs_is_ended_and_started_again(manager: UserManager) -> None:
    install(manager)
    said = manager.home / "said"
    manager.drop_in(f"[Service]\nWatchdogSec=1\nStandardError=append:{said}\n")
    manager.systemctl("start", UNIT)
    pid = manager.pid()
    # It is well for longer than the limit.
    before = manager.show("WatchdogTimestampMonotonic")
    eventually(lambda: int(manager.show("WatchdogTimestampMonotonic")) > int(before) + 2_000_000)
    assert manager.pid() == pid
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: manager.pid() not in {0, pid} and active(manager) == "active")
    assert manager.show("NRestarts") == "1"
    assert "Fatal Python error: Aborted" in said.read_text()


def test_one_started_by_hand_is_left_in_peace(manager: UserManager) -> None:
    """The unit's start fails for as long; its clean-up must not take away the other's links."""
    install(manager)
    manager.drop_in("[Service]\nRestartSec=50ms\n[Unit]\nStartLimitBurst=3\n")
    process = manager.popen("ttybridge", "demo")
    link = manager.runtime / "ttybridge" / "demo"
    eventually(link.is_symlink)
    manager.run("systemctl", "--user", "start", UNIT)
    eventually(lambda: active(manager) == "failed")
    assert link.is_symlink()
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0
    manager.systemctl("reset-failed", UNIT)
    manager.systemctl("start", UNIT)


def test_the_hardening_is_there(manager: UserManager) -> None:
    install(manager, "--now")
    status = Path(f"/proc/{manager.pid()}/status").read_text()
    for line in ("Seccomp:\t2", "NoNewPrivs:\t1", "Umask:\t0077"):
        assert f"\n{line}\n" in status
    limits = Path(f"/proc/{manager.pid()}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


class Keeper:
    """The unit with a small program in place of ttybridge's, and all the rest as it is."""

    def __init__(self, manager: UserManager, base: Path, count: int) -> None:
        self.manager = manager
        self._report = manager.home / "report"
        program = shutil.copy(KEEPER, manager.home)
        install(manager)
        start = f"{base}/venv/bin/python {program} {count} {self._report}"
        manager.drop_in(f"[Service]\nExecStart=\nExecStart={start}\n")

    def systemctl(self, verb: str) -> None:
        self.manager.systemctl(verb, UNIT)

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._report.read_text().splitlines()]


def test_hardening_refuses_what_it_is_to_refuse(manager: UserManager, base: Path) -> None:
    keeper = Keeper(manager, base, 0)
    keeper.systemctl("start")
    assert keeper.reports[0]["hardening"] == {
        "netlink": "allowed",
        "packets": "EAFNOSUPPORT",
        "executable memory": "EPERM",
        "setuid": "EPERM",
        "namespace": "EPERM",
        "personality": "EPERM",
        "debugging": "EPERM",
    }


def test_what_is_stored_outlives_restarts_and_kills_but_no_stop(
    manager: UserManager, base: Path
) -> None:
    keeper = Keeper(manager, base, 20)
    keeper.systemctl("start")
    (first,) = keeper.reports
    assert (first["came"], first["limit"]) == (0, 5000)
    terminal = os.open(first["pts"], os.O_RDWR | os.O_NOCTTY)
    try:
        keeper.systemctl("restart")
        end, second = keeper.reports[1:]
        assert end["job"] == "restart"
        assert (second["generation"], second["came"], second["wrong"]) == (2, 22, 0)
        os.kill(manager.pid(), signal.SIGKILL)
        eventually(lambda: len(keeper.reports) == 4)
        third = keeper.reports[3]
        assert (third["generation"], third["came"], third["wrong"]) == (3, 22, 0)
        said = [os.read(terminal, 1000) for _ in range(3)]
        assert said == [b"generation 1\n", b"generation 2\n", b"generation 3\n"]
    finally:
        os.close(terminal)
    eventually(lambda: active(manager) == "active")
    keeper.systemctl("stop")
    assert keeper.reports[-1]["job"] == "stop"
    assert manager.show("NFileDescriptorStore") == "0"
    keeper.systemctl("start")
    assert (keeper.reports[-1]["generation"], keeper.reports[-1]["came"]) == (1, 0)


def test_a_signal_of_somebody_else_is_neither_stop_nor_restart(
    manager: UserManager, base: Path
) -> None:
    keeper = Keeper(manager, base, 1)
    keeper.systemctl("start")
    os.kill(manager.pid(), signal.SIGTERM)
    eventually(lambda: active(manager) == "inactive")
    assert keeper.reports[-1]["job"] is None


def test_no_more_is_stored_than_can_be_passed(manager: UserManager, base: Path) -> None:
    """With 900 of 1,024 descriptors in its store, systemd fails the start and drops them all."""
    keeper = Keeper(manager, base, 900)
    manager.drop_in("[Service]\nLimitNOFILE=1024\n")
    keeper.systemctl("start")
    assert keeper.reports[0]["left_out"] == 902 - 512
    keeper.systemctl("restart")
    assert (keeper.reports[-1]["came"], keeper.reports[-1]["wrong"]) == (512, 0)


@pytest.mark.long
def test_thousands_outlive_a_restart(
    manager: UserManager, base: Path, figure: Callable[[str, list[float]], None]
) -> None:
    """As many as the unit allows; what is beyond does not."""
    keeper = Keeper(manager, base, 5100)
    before = time.monotonic()
    keeper.systemctl("start")
    figure("5,000 descriptors put into the store", [time.monotonic() - before])
    assert keeper.reports[0]["left_out"] == 5102 - 5000
    assert manager.show("NFileDescriptorStore") == "5000"
    seconds = []
    for generation in (2, 3):
        before = time.monotonic()
        keeper.systemctl("restart")
        seconds.append(time.monotonic() - before)
        last = keeper.reports[-1]
        assert (last["generation"], last["came"], last["wrong"]) == (generation, 5000, 0)
    figure("restart with 5,000 descriptors kept", seconds)


@pytest.fixture
def lives(request: pytest.FixtureRequest) -> int:
    """How often the service is restarted, or dies, under those who use it."""
    return 5 if request.config.getoption("--long") else 1


class Desk:
    """A console of a flooding VM, with screen, telnet and a raw client at it; a context."""

    def __init__(self, manager: UserManager, boot: Boot) -> None:
        self.manager = manager
        self.vm: Qemu = boot("flood")
        serve(manager, self.vm.url)
        wait_state(manager, "ONLINE")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._sit_down(stack)
            self._stack = stack.pop_all()
        return self

    def _sit_down(self, stack: ExitStack) -> None:
        enter, home = stack.enter_context, self.manager.home
        place = status(self.manager)
        self.pty: str = place["pty"]
        log = home / "screen.log"
        enter(Terminal(self.manager.user, home, f"screen -L -Logfile {log} {self.pty}"))
        eventually(log.exists)
        # The screen's log has every byte that it was given.
        tail = enter(
            subprocess.Popen(["tail", "-c", "+1", "-f", log], stdout=subprocess.PIPE, bufsize=0)
        )
        stack.callback(tail.kill)
        assert tail.stdout is not None
        clients = [enter(connect(place[kind])).socket for kind in ("raw", "telnet")]
        for client in clients:
            client.settimeout(None)  # a witness reads the descriptor
        fds = [tail.stdout.fileno(), *(client.fileno() for client in clients)]
        self.witnesses = [Witness(fd) for fd in fds]
        for witness in self.witnesses:
            witness.__enter__()
        wait_attached(self.manager, 3)
        self.wait_lines()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait_lines(self, count: int = 500) -> None:
        """Wait until each client has so many more."""
        for witness, lines in [(w, w.lines) for w in self.witnesses]:
            eventually(partial(witness.has_read, lines + count))
        assert not any(witness.ended for witness in self.witnesses)


def serve(manager: UserManager, url: str, more: str = "") -> None:
    """Have the service run with one console."""
    configure(manager, f'[consoles.vm]\nurl = "{url}"\n{more}')
    install(manager, "--now")


def ask(manager: UserManager, do: str = "status", **fields: object) -> dict[str, Any]:
    with Control(manager.runtime / "ttybridge") as control:
        answer: dict[str, Any] = control.ask(do, **fields)
        return answer


def status(manager: UserManager) -> dict[str, Any]:
    """Of the first console."""
    console: dict[str, Any] = ask(manager)["consoles"][0]
    return console


def wait_state(manager: UserManager, state: str) -> None:
    eventually(lambda: status(manager)["state"] == state, what=state)


def wait_attached(manager: UserManager, count: int) -> None:
    eventually(lambda: len(status(manager)["attachments"]) == count, what="attachments")


def stored(manager: UserManager) -> int:
    return int(manager.show("NFileDescriptorStore"))


def connect(address: str) -> Client:
    host, port = address.rsplit(":", 1)
    return Client((host, int(port)))


def test_a_restart_is_noticed_by_nobody(manager: UserManager, boot: Boot, lives: int) -> None:
    with Desk(manager, boot) as desk:
        for number in range(lives):
            pid = manager.pid()
            manager.systemctl("restart", UNIT)
            assert manager.pid() != pid
            desk.wait_lines()
            ask(manager, "exec")  # what came from the store goes on by exec as well
            desk.wait_lines()
            assert [w.wrong for w in desk.witnesses] == [[], [], []], number
        wait_attached(manager, 3)
        now = status(manager)
        assert (now["bytes"]["skipped"], now["connections"]) == (0, 1)
        assert now["pty"] == desk.pty
        manager.systemctl("stop", UNIT)
    assert stored(manager) == 0
    eventually(lambda: not desk.vm.connected(), limit=2)


def test_a_death_leaves_qemu_and_the_clients_stay(
    manager: UserManager, boot: Boot, lives: int
) -> None:
    with Desk(manager, boot) as desk:
        for _ in range(lives):
            kill(manager)
            desk.wait_lines()
            wait_attached(manager, 3)
            now = status(manager)
            assert (now["state"], now["pty"]) == ("ONLINE", desk.pty)


@pytest.mark.long
def test_whenever_it_dies_qemu_is_left_and_the_clients_stay(
    manager: UserManager, boot: Boot
) -> None:
    """As soon as there is a process, as soon as it is ready, as soon as it has the console."""
    moments: list[Callable[[], object]] = [
        lambda: None,
        lambda: eventually(lambda: active(manager) == "active"),
        lambda: wait_state(manager, "ONLINE"),
    ]
    with Desk(manager, boot) as desk:
        for moment in moments * 4:
            pid = manager.pid()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: manager.pid() not in {0, pid})  # type: ignore[misc]
            moment()
        eventually(lambda: active(manager) == "active")
        desk.wait_lines()
        wait_attached(manager, 3)
        assert status(manager)["pty"] == desk.pty
        for _ in range(5):  # a restart may be cut short, too
            manager.systemctl("restart", "--no-block", UNIT)
            kill(manager)
        desk.wait_lines()
        wait_attached(manager, 3)


def test_a_death_is_said_and_telnet_goes_on_as_agreed(manager: UserManager) -> None:
    with Fake("echo") as vm:
        serve(manager, vm.url)
        wait_state(manager, "ONLINE")
        with connect(status(manager)["telnet"]) as client:
            client.read_until(b"\xff\xfd\x00")  # the greeting ends with DO BINARY
            client.type(b"\xff\xfd\x00\xff\xfb\x00x\r?")  # DO and WILL BINARY
            client.read_until(b"x\r?")
            kill(manager)
            client.read_until(b"\n[ttybridge: vm: the service has died; output may be missing]\r\n")
            wait_state(manager, "ONLINE")
            client.type(b"y\r\xff\xff!")
            client.read_until(b"y\r\xff\xff!")


def test_every_kind_of_client_goes_on_typing(manager: UserManager) -> None:
    with Fake("echo") as vm, ExitStack() as stack:
        serve(manager, vm.url, 'unix = true\n[service]\nwebsocket = "auto"\n')
        wait_state(manager, "ONLINE")
        enter, run = stack.enter_context, manager.runtime / "ttybridge"
        attach = enter(enter(Control(run)).attach("vm", replay=0, notices=False))
        unix = enter(Client(str(run / ".unix" / "vm"))).socket
        web = enter(connect(ask(manager)["service"]["websocket"][5:-5])).socket
        host = "{}:{}".format(*web.getpeername())
        web.sendall(head("/vm", UPGRADE | {"Host": host}))
        pty = os.open(status(manager)["pty"], os.O_RDWR | os.O_NOCTTY)
        stack.callback(os.close, pty)
        wait_attached(manager, 4)
        typists: list[Callable[[bytes], object]] = [
            attach.sendall,
            unix.sendall,
            lambda key: web.sendall(masked(key)),
            lambda key: os.write(pty, key),
        ]
        keys = iter(b"abcdefgh")
        for end in (lambda: manager.systemctl("restart", UNIT), lambda: kill(manager)):
            end()
            wait_state(manager, "ONLINE")
            for typist in typists:
                key = bytes([next(keys)])
                typist(key)
                for fd in (attach.fileno(), unix.fileno(), web.fileno(), pty):
                    read_until(fd, key)
            numbers = [each["id"] for each in status(manager)["attachments"]]
            assert sorted(numbers) == [1, 2, 3, 4]


def read_until(fd: int, wanted: bytes) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    seen = b""
    while wanted not in seen:
        assert poller.poll(30_000), f"no {wanted!r} in {seen!r}"
        received = os.read(fd, 1 << 16)
        assert received, f"closed after {seen!r}"
        seen += received


def test_a_terminal_that_was_replaced_outlives_a_death(manager: UserManager) -> None:
    serve(manager, URL)
    before = stored(manager)
    terminal = os.open(status(manager)["pty"], os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(terminal, termios.TIOCEXCL)  # as screen does; root may open it all the same
    wait_attached(manager, 1)
    os.close(terminal)
    wait_attached(manager, 0)
    eventually(lambda: status(manager)["pty"] is not None and stored(manager) == before)
    place = places(manager)
    kill(manager)
    assert places(manager) == place
    terminal = os.open(place["vm"][0], os.O_RDWR | os.O_NOCTTY)
    wait_attached(manager, 1)
    os.close(terminal)


def test_what_is_neither_stop_nor_restart_leaves(manager: UserManager, boot: Boot) -> None:
    vm = boot("flood")
    serve(manager, vm.url)
    wait_state(manager, "ONLINE")
    assert stored(manager) == 6  # record, control, upstream, PTY, raw, telnet
    os.kill(manager.pid(), signal.SIGTERM)
    eventually(lambda: active(manager) == "inactive")
    assert stored(manager) == 0
    eventually(lambda: not vm.connected(), limit=2)


def test_consoles_from_everywhere_outlive_both(manager: UserManager, base: Path) -> None:
    """From the command line, from the file, and added; as it is now, where that has changed."""
    with Fake("echo") as vm:
        configure(manager, f'[consoles.filed]\nurl = "{vm.url}"\n')
        install(manager)
        command = f"{base}/venv/bin/ttybridge run --config %h/.config/ttybridge/config.toml"
        manager.drop_in(f"[Service]\nExecStart=\nExecStart={command} given={URL}\n")
        manager.systemctl("start", UNIT)
        ask(manager, "add", name="added", settings={"url": URL, "unix": True})
        before = places(manager)
        assert set(before) == {"given", "filed", "added"}
        kept = stored(manager)
        again: list[Callable[[], object]] = [
            lambda: manager.systemctl("restart", UNIT),
            lambda: kill(manager),
            lambda: ask(manager, "exec"),
            lambda: kill(manager),
        ]
        for end in again:
            end()
            assert places(manager) == before
            eventually(lambda: stored(manager) == kept, what="as many descriptors as before")
        configure(manager, f'[consoles.other]\nurl = "{URL}"\n')
        manager.drop_in(f"[Service]\nExecStart=\nExecStart={command} argument={URL}\n")
        with Control(manager.runtime / "ttybridge") as control:
            client = control.attach("given", readonly=False, replay=0, notices=False)
            client.settimeout(20)
            manager.systemctl("restart", UNIT)
            eventually(lambda: set(places(manager)) == {"argument", "added", "other"})
            assert client.recv(1) == b""  # its console is no more
        assert places(manager)["added"] == before["added"]


def places(manager: UserManager) -> dict[str, tuple[str, ...]]:
    """Where each console is."""
    return {
        console["name"]: tuple(console[kind] for kind in ("pty", "raw", "telnet", "unix"))
        for console in ask(manager)["consoles"]
    }


def test_consoles_that_were_found_outlive_both(manager: UserManager, boot: Boot) -> None:
    vm = boot("flood", name="found")
    configure(manager, "[service]\ndiscover = true\n")
    install(manager, "--now")
    mine = f"127.0.0.1:{vm.port}"

    def bridged() -> list[dict[str, Any]]:
        consoles: list[dict[str, Any]] = ask(manager)["consoles"]
        return [console for console in consoles if mine in console["url"]]

    eventually(lambda: [console["state"] for console in bridged()] == ["ONLINE"])
    before = bridged()[0]["pty"]
    for end in (lambda: kill(manager), lambda: manager.systemctl("restart", UNIT)):
        end()
        eventually(lambda: [console["state"] for console in bridged()] == ["ONLINE"])
        assert bridged()[0]["pty"] == before
    vm.kill()
    eventually(lambda: bridged() == [])


def test_what_was_found_and_removed_by_hand_stays_so(manager: UserManager, boot: Boot) -> None:
    boot("flood", name="unwanted")
    configure(manager, "[service]\ndiscover = true\n")
    install(manager, "--now")

    def names() -> set[str]:
        return {console["name"] for console in ask(manager)["consoles"]} & {
            "unwanted",
            "first",
            "second",
        }

    eventually(lambda: names() == {"unwanted"})
    ask(manager, "remove", name="unwanted")
    boot("flood", name="first")
    eventually(lambda: "first" in names())
    assert names() == {"first"}
    manager.systemctl("restart", UNIT)
    boot("flood", name="second")  # found by a look that finds the unwanted one, too
    eventually(lambda: "second" in names())
    assert names() == {"first", "second"}


def test_a_console_that_others_have_does_not_delay_a_start(
    manager: UserManager, boot: Boot
) -> None:
    """Queued behind another client, nobody answers our leaving; that is not waited for."""
    vm = boot("echo")
    with connect(f"127.0.0.1:{vm.port}"):
        serve(manager, vm.url)
        wait_state(manager, "BUSY")
        for end in (lambda: kill(manager), lambda: manager.systemctl("restart", UNIT)):
            end()
            wait_state(manager, "BUSY")
    wait_state(manager, "ONLINE")


def test_a_connection_with_tls_is_left_and_made_anew(
    manager: UserManager, user: User, boot: Boot
) -> None:
    authority = Authority(user, manager.home / "certificates")
    vm = boot("flood", tls=authority.directory)
    serve(manager, vm.url, f'ca = "{authority.ca}"\n')
    wait_state(manager, "ONLINE")
    with connect(status(manager)["raw"]) as client:
        wait_attached(manager, 1)
        manager.systemctl("restart", UNIT)
        wait_state(manager, "ONLINE")
        wait_attached(manager, 1)
        client.receive()
        kill(manager)
        # QEMU serves the next one.  That its guest prints on is not looked at: once it came
        # to a halt in this test, and why is not known.
        wait_state(manager, "ONLINE")
        wait_attached(manager, 1)


def test_a_damaged_record_is_said_and_all_begins_anew(manager: UserManager, boot: Boot) -> None:
    vm = boot("flood")
    said = manager.home / "said"
    configure(manager, f'[consoles.vm]\nurl = "{vm.url}"\n')
    install(manager)
    manager.drop_in(f"[Service]\nStandardError=append:{said}\n")
    manager.systemctl("start", UNIT)
    wait_state(manager, "ONLINE")
    files = Path(f"/proc/{manager.pid()}/fd")
    (record,) = [f for f in files.iterdir() if "ttybridge-state" in os.readlink(f)]
    with connect(status(manager)["raw"]) as client:
        wait_attached(manager, 1)
        os.kill(manager.pid(), signal.SIGSTOP)  # it would write it anew
        record.write_bytes(b"nonsense")
        kill(manager)
        wait_state(manager, "ONLINE")
        client.read_to_end()
    assert (
        "what the service before has left is not used, and everything begins anew:"
        " it has no record\n" in said.read_text()
    )
    eventually(lambda: stored(manager) == 6)


def test_beyond_the_limit_clients_are_not_kept_and_it_is_said(
    manager: UserManager, boot: Boot
) -> None:
    vm = boot("flood")
    said = manager.home / "said"
    configure(manager, f'[consoles.vm]\nurl = "{vm.url}"\n')
    install(manager)
    manager.drop_in(f"[Service]\nFileDescriptorStoreMax=6\nStandardError=append:{said}\n")
    manager.systemctl("start", UNIT)
    wait_state(manager, "ONLINE")
    before = places(manager)
    with connect(status(manager)["raw"]) as client:
        wait_attached(manager, 1)
        assert "systemd keeps 6 descriptors for us (FileDescriptorStoreMax=" in said.read_text()
        manager.systemctl("restart", UNIT)
        client.read_to_end()
    assert (places(manager), status(manager)["connections"]) == (before, 1)


@pytest.mark.long
def test_thousands_of_the_service_outlive_a_restart_and_a_death(
    manager: UserManager, figure: Callable[[str, list[float]], None]
) -> None:
    """1,000 consoles of three descriptors each, and more clients than there is room for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    configure(manager, "".join(f'[consoles.vm{n}]\nurl = "{URL}"\n' for n in range(1000)))
    install(manager, "--now")
    before = places(manager)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(connect(raw)) for _, raw, _, _ in before.values() for _ in range(2)
        ]
        eventually(lambda: stored(manager) == 5000, limit=60)
        for what, end in (
            ("restart", lambda: manager.systemctl("restart", UNIT)),
            ("death", lambda: kill(manager)),
        ):
            began = time.monotonic()
            end()
            assert places(manager) == before
            figure(
                f"{what} with 1,000 consoles and 5,000 descriptors kept", [time.monotonic() - began]
            )
            attached = sum(len(c["attachments"]) for c in ask(manager)["consoles"])
            assert attached == 5000 - 2 - 3000  # the record, and the control socket
        for client in clients:
            client.socket.setblocking(False)
        assert sum(map(_is_open, clients)) == attached


def _is_open(client: Client) -> bool:
    try:
        return client.receive() != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
