"""A new user's first hour on a bare system: what goes wrong says what, and what to do.

Each scenario has an environment of its own, as after ``env -i``, and the exact line.
"""

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.certificates import Authority
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import free_port
from tests.support.terminal import Terminal
from tests.support.user import User
from tests.support.waiting import eventually

START = "start one with 'ttybridge run' or 'systemctl --user start ttybridge'"


@pytest.fixture
def url() -> Iterator[str]:
    """Nobody listens there, nor can: the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"ws://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def home(user: User, directory: Path) -> Path:
    """The user's home, in which nothing is yet."""
    if Path(f"/run/user/{user.uid}").exists():
        pytest.skip(f"/run/user/{user.uid} is there: {user.name} is logged in")
    return own(user, directory / "home")


@pytest.fixture
def root(base: Path, intruder: User) -> Path:
    """Root's home."""
    path = base / "root"
    path.mkdir(exist_ok=True)
    return path


def own(user: User, path: Path) -> Path:
    path.mkdir()
    user.own(path)
    return path


def bare(user: User, *words: str | Path, **variables: object) -> list[str]:
    """The command with these variables, the way to ttybridge, and no others."""
    path = f"PATH={user.environment['PATH']}"
    return ["env", "-i", path, *(f"{k}={v}" for k, v in variables.items()), *map(str, words)]


def says(user: User | None, command: list[str]) -> str:
    """The one line of a command that fails; root's, for no user."""
    done = (
        user.run(command)
        if user is not None
        else subprocess.run(command, capture_output=True, text=True, check=False)
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.rstrip("\n")


@contextmanager
def running(user: User | None, command: list[str]) -> Iterator[list[str]]:
    """A service that is up; its lines on stderr until then.  Root's, for no user."""
    start = user.popen if user is not None else subprocess.Popen
    process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        lines: list[str] = []
        assert process.stderr is not None
        while not (lines and re.match(r"\w+: (WAITING|ONLINE)", lines[-1])):
            line = process.stderr.readline().decode()
            assert line, lines
            lines.append(line.rstrip("\n"))
        yield lines
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)


def test_no_runtime_directory(user: User, directory: Path, home: Path, url: str) -> None:
    """cron, ssh without a session: the links are in the home; a login shell is told where."""
    expected = home / ".local/state/ttybridge/run"
    login = {"HOME": home, "XDG_RUNTIME_DIR": own(user, directory / "login")}
    with running(user, bare(user, "ttybridge", "run", f"vm1={url}", HOME=home)) as lines:
        assert lines == [
            f"XDG_RUNTIME_DIR is not set, as without a login session; links are in {expected}",
            "vm1: WAITING: connection refused",
        ]
        assert (expected / "vm1").is_symlink()
        for words in (["status"], ["attach", "vm1"], ["path", "vm1"], ["send", "vm1", "x"]):
            assert says(user, bare(user, "ttybridge", *words, **login)) == (
                f"ttybridge: no ttybridge runs with {directory}/login/ttybridge; one runs with"
                f" another directory: add --runtime-dir {expected}"
            )
    assert says(user, bare(user, "ttybridge", "path", "vm1", HOME=home)) == (
        f"ttybridge: no ttybridge runs with {expected}"
        f"; XDG_RUNTIME_DIR is not set, as without a login session; {START}"
    )


def test_su_to_root(user: User, directory: Path, root: Path, url: str) -> None:
    """Root's service makes nothing in the directories of the user whose variables it has."""
    runtime, state = own(user, directory / "runtime"), own(user, directory / "state")
    left_over = {"HOME": root, "XDG_RUNTIME_DIR": runtime, "XDG_STATE_HOME": state}
    command = bare(user, "ttybridge", "run", f"vm1={url}", **left_over)
    with running(None, command) as lines:
        assert lines[0] == (
            f"XDG_RUNTIME_DIR={runtime} belongs to uid {user.uid}, not to you;"
            f" links are in {root}/.local/state/ttybridge/run"
        )
        assert list(runtime.iterdir()) == list(state.iterdir()) == []
    # And that user still gets in.
    with running(user, bare(user, "ttybridge", "run", f"vm1={url}", **left_over)) as lines:
        assert lines == ["vm1: WAITING: connection refused"]
        assert (runtime / "ttybridge" / "vm1").is_symlink()
        assert says(None, bare(user, "ttybridge", "status", **left_over)) == (
            f"ttybridge: no ttybridge runs with {root}/.local/state/ttybridge/run"
            f"; XDG_RUNTIME_DIR={runtime} belongs to uid {user.uid}, not to you; one runs"
            f" with another directory: add --runtime-dir {runtime}/ttybridge"
        )


def test_su_to_root_means_roots_own_systemd(user: User, directory: Path, root: Path) -> None:
    """Root could write to the former user's, and `install` would have that one restart."""
    code = "from bridge.kernel.homes import session_directory; print(session_directory())"
    for named, found in ((directory, "/run/user/0"), (root, root), ("", "/run/user/0")):
        command = bare(user, "python", "-c", code, XDG_RUNTIME_DIR=named)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == f"{found}\n"


def test_su_from_root(user: User, home: Path, root: Path, url: str) -> None:
    """Root's variables are not the user's to use."""
    command = bare(user, "ttybridge", "run", f"vm1={url}", HOME=home, XDG_RUNTIME_DIR=root)
    with running(user, command) as lines:
        assert lines[0] == (
            f"XDG_RUNTIME_DIR={root} belongs to uid 0, not to you;"
            f" links are in {home}/.local/state/ttybridge/run"
        )


@pytest.mark.parametrize(
    ("named", "mode", "doubt"),
    [
        ("run", 0o700, "is not an absolute path"),
        ("{}/none", 0o700, "cannot be used (no such file or directory)"),
        ("{}/login", 0o777, "is writable by others (mode 0777)"),
        ("/dev/null", 0o700, "is not a directory"),
    ],
)
def test_a_runtime_directory_that_will_not_do(
    user: User, directory: Path, home: Path, named: str, mode: int, doubt: str, url: str
) -> None:
    own(user, directory / "login").chmod(mode)
    named = named.format(directory)
    command = bare(user, "ttybridge", "run", f"vm1={url}", HOME=home, XDG_RUNTIME_DIR=named)
    with running(user, command) as lines:
        assert lines[0] == (
            f"XDG_RUNTIME_DIR={named} {doubt}; links are in {home}/.local/state/ttybridge/run"
        )
    assert list((directory / "login").iterdir()) == []


def test_a_new_process_stays_where_the_old_one_was(
    user: User, directory: Path, home: Path, url: str
) -> None:
    """The default may be another one by then; what is open and linked is where it is."""
    login = own(user, directory / "login")
    variables = {"HOME": home, "XDG_RUNTIME_DIR": login}
    there = ("--runtime-dir", login / "ttybridge")
    with running(user, bare(user, "ttybridge", "run", f"vm1={url}", **variables)):
        login.chmod(0o777)
        done = user.run(["ttybridge", "reload", "--exec", *there])
        assert (done.returncode, done.stderr) == (0, "")
        login.chmod(0o700)
        done = user.run(["ttybridge", "add", "vm2", url, *there])
        assert (done.stdout, done.stderr) == (f"{login}/ttybridge/vm2\n", "")
        assert not (home / ".local").exists()


def test_root_in_a_container(user: User, root: Path) -> None:
    """No session, no systemd, nothing but a home: it works, and says where the links are."""
    expected = root / ".local/state/ttybridge/run"
    with running(None, bare(user, "ttybridge", "demo", HOME=root)) as lines:
        assert lines == [
            f"XDG_RUNTIME_DIR is not set, as without a login session; links are in {expected}",
            "demo: ONLINE",
        ]
        command = bare(user, "sh", "-c", "echo 'echo $HOME' | ttybridge attach demo", HOME=root)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "demo$ " in done.stdout
    assert says(None, bare(user, "ttybridge", "status", HOME=root)).startswith(
        f"ttybridge: no ttybridge runs with {expected}; XDG_RUNTIME_DIR is not set"
    )


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["status", "--json"],
        ["attach", "demo"],
        ["path", "demo"],
        ["wait", "demo", "demo", "--timeout", "9", "--replay"],
        ["check", "CONFIG"],
        ["--help"],
        ["attach", "--help"],
        ["--version"],
        ["install", "--print"],
    ],
    ids=" ".join,
)
def test_a_full_disk(bridge: Bridge, directory: Path, words: list[str]) -> None:
    """One line for what cannot be printed, whichever the command."""
    config = directory / "config.toml"
    config.write_text("")
    config.chmod(0o644)
    command = " ".join(words).replace("CONFIG", str(config))
    where = f"--runtime-dir {bridge.directory}" if "--" not in words[0] else ""
    done = bridge.user.run(["sh", "-c", f"ttybridge {command} {where} >/dev/full"])
    expected = "ttybridge: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, expected)


def bridged(user: User, directory: Path, url: str) -> Bridge:
    return Bridge(user, directory / "run", f"vm1={url}")


def test_a_proxy_is_not_used(user: User, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A console is reached directly, whatever a web browser is told."""
    with Fake("echo") as vm, socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        where = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "socks_proxy"):
            monkeypatch.setitem(user.environment, name, where)
            monkeypatch.setitem(user.environment, name.upper(), where)
        with bridged(user, directory, vm.url) as bridge:
            bridge.wait_message("^vm1: ONLINE$")
        with bridged(user, directory, "ws://no.such.host.invalid:4555") as bridge:
            bridge.wait_message("^vm1: WAITING: host name: ")
        with pytest.raises(BlockingIOError):  # nobody has come
            proxy.accept()


def test_nobody_is_there(tools: None, user: User, directory: Path, url: str) -> None:
    """The screen that somebody attaches to is not simply blank."""
    with bridged(user, directory, url) as bridge:
        bridge.wait_message("^vm1: WAITING: connection refused$")
        with Terminal(user, directory, f"screen {bridge.link}") as terminal:
            terminal.wait_for(rf"\[ttybridge: vm1 is waiting for {url}\]")


def test_nobody_answers(user: User, directory: Path) -> None:
    """It listens, and accepts nobody: as a QEMU does whose console somebody else has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        with (
            socket.create_connection(listener.getsockname()),
            listener.accept()[0],
            bridged(user, directory, url) as bridge,
        ):
            bridge.wait_message("^vm1: BUSY: another client has this console; queued behind it$")


# What else is at a port, what it says, and what is said of it.
STRANGERS = {
    "a web server": (
        b"HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6\r\n\r\n<html>",
        "FAILED: a web server answers there, not a QEMU console ('HTTP/1.0 200 OK'); wrong port?",
    ),
    "ssh": (
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        (
            "FAILED: an ssh server answers there, not a console ('SSH-2.0-OpenSSH_9.2p1 Debian-2');"
            " wrong port?"
        ),
    ),
    "a silent one": (
        b"",
        (
            "FAILED: connected, but no answer in 5 s: no websocket server; has the chardev"
            " websocket=on? Without, the URL is tcp://"
        ),
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_the_wrong_port(user: User, directory: Path, stranger: str) -> None:
    said, told = STRANGERS[stranger]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        with bridged(user, directory, url) as bridge:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(said)
                bridge.wait_message(f"^vm1: {re.escape(told)}$")


def test_a_chardev_without_websocket(user: User, directory: Path, boot: Boot) -> None:
    """The scheme that is named then does it."""
    vm = boot("echofifo", websocket=False)
    with bridged(user, directory, f"ws://127.0.0.1:{vm.port}") as bridge:
        bridge.wait_message(
            r"^vm1: FAILED: what answers is not a websocket \(it says 'G.*'\); has the chardev"
            r" websocket=on\? Without, the URL is tcp://$"
        )
    reaches_the_guest(user, directory, f"tcp://127.0.0.1:{vm.port}")


def test_a_chardev_with_tls(user: User, directory: Path, boot: Boot) -> None:
    authority = Authority(user, directory / "authority")
    vm = boot("echofifo", tls=authority.directory)
    with bridged(user, directory, f"ws://127.0.0.1:{vm.port}") as bridge:
        bridge.wait_message("^vm1: (FAILED|WAITING): .*wss://")
    with bridged(user, directory, f"wss://127.0.0.1:{vm.port}") as bridge:
        bridge.wait_message("^vm1: FAILED: certificate authority: .*; set ca to")


def test_a_chardev_without_tls(user: User, directory: Path, boot: Boot) -> None:
    vm = boot("echofifo")
    with bridged(user, directory, f"wss://127.0.0.1:{vm.port}") as bridge:
        bridge.wait_message(
            "^vm1: FAILED: connected, but no answer in 5 s: no TLS server; has the chardev"
            r" tls-creds\? Without, the URL is ws://$"
        )
    reaches_the_guest(user, directory, f"ws://127.0.0.1:{vm.port}")


def test_a_plain_chardev_that_is_stopped_is_not_called_locked(
    user: User, directory: Path, boot: Boot
) -> None:
    """What frees a websocket that is locked does nothing there."""
    vm = boot("deaf", websocket=False)
    vm.process.send_signal(signal.SIGSTOP)
    try:
        with bridged(user, directory, vm.url) as bridge:
            bridge.wait_message("^vm1: BUSY: nobody has this console, yet nobody is served")
            assert not any("rescue" in line or "websocket" in line for line in bridge.messages)
    finally:
        vm.process.send_signal(signal.SIGCONT)


def test_a_vm_that_comes_later(user: User, directory: Path, boot: Boot) -> None:
    port = free_port()
    with bridged(user, directory, f"ws://127.0.0.1:{port}") as bridge, Client(bridge.raw) as client:
        bridge.wait_message("^vm1: WAITING: connection refused$")
        boot("echofifo", port=port)
        bridge.wait_message("^vm1: ONLINE$")
        eventually(lambda: echoes(client))


def reaches_the_guest(user: User, directory: Path, url: str) -> None:
    with bridged(user, directory, url) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("^vm1: ONLINE$")
        eventually(lambda: echoes(client))


def echoes(client: Client) -> bool:
    """Does the guest say a key back?  It does not until it has booted."""
    client.socket.settimeout(0.5)
    client.type(b"k")
    try:
        return b"k" in client.receive()
    except TimeoutError:
        return False
