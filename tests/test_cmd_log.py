"""Logs as a user has them: a service that writes them, and ``ttybridge log``."""

import os
import re
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.user import User
from tests.support.waiting import eventually

NAME = "logged"


@pytest.fixture
def directory(user: User, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With logs of its own."""
    monkeypatch.setitem(user.environment, "XDG_STATE_HOME", str(directory / "state"))
    return directory


@contextmanager
def served(user: User, directory: Path, url: str, settings: str = "") -> Iterator[Bridge]:
    config = directory / "config.toml"
    config.write_text(f'[consoles.{NAME}]\nurl = "{url}"\nlog = true\ninput = "direct"\n{settings}')
    config.chmod(0o644)
    with Bridge(user, directory / "run", "--config", str(config)) as bridge:
        yield bridge


def lines(user: User, *options: str) -> list[str]:
    """What ``ttybridge log`` shows, without times."""
    done = user.run(["ttybridge", "log", NAME, *options])
    assert (done.returncode, done.stderr) == (0, "")
    return re.findall(r"^[-\d]{10}T[:.\d]{12}[+-]\d\d:\d\d (.*)$", done.stdout, re.MULTILINE)


def test_the_life_of_a_log(user: User, directory: Path) -> None:
    with Fake("echo") as vm, served(user, directory, vm.url) as bridge:
        bridge.wait_message("ONLINE")
        with Client(bridge.raw) as client:
            client.type(b"\x1b[31mred\x1b[m\r\nlogin: ")
            client.read_until(b"login: ")
        eventually(lambda: user.run(["ttybridge", "log", NAME]).stdout)
        shown = eventually(lambda: (s := lines(user)) and s[-1] == "| login: " and s)
        assert shown == [f"-- {NAME}: log begins", f"-- {NAME}: ONLINE", "| red", "| login: "]
        assert "| \x1b[31mred\x1b[m" in lines(user, "--raw")
        assert lines(user, "--grep", "^red$") == ["| red"]
        assert lines(user, "--since", "1h") == shown
        assert lines(user, "--since", "2030-01-01") == ["| login: "]
        log = directory / "state/ttybridge/log"
        assert stat.S_IMODE(log.stat().st_mode) == 0o700
        assert stat.S_IMODE((log / f"{NAME}.log").stat().st_mode) == 0o600
        with Client(bridge.raw) as client:
            bridge.process.send_signal(signal.SIGUSR2)  # another process goes on, amid the line
            client.type(b"root\r\n")
            client.read_until(b"root\r\n")
        vm.kill()
        bridge.wait_message("WAITING")
        assert bridge.stop() == 0
    shown[-1] = "| login: root"
    shown += [f"-- {NAME}: WAITING: ", f"-- {NAME}: log ends"]
    for line, begin in zip(lines(user), shown, strict=True):
        assert line.startswith(begin)


def test_following_shows_what_comes_and_ends_quietly(user: User, directory: Path) -> None:
    with Fake("echo") as vm, served(user, directory, vm.url, 'log_size = "64KiB"') as bridge:
        bridge.wait_message("ONLINE")
        eventually(lambda: user.run(["ttybridge", "log", NAME]).stdout)
        follower = user.popen(
            ["ttybridge", "log", NAME, "--follow", "--grep", "^[0-9]|login"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert follower.stdout is not None
        assert follower.stderr is not None
        with Client(bridge.raw) as client:
            for n in range(0, 4000, 100):
                text = b"".join(b"%08d\r\n" % m for m in range(n, n + 100))
                client.type(text)
                client.read_exactly(len(text))
            client.type(b"login: ")
        for n in range(4000):
            assert follower.stdout.readline().endswith(b" | %08d\n" % n)
        assert follower.stdout.read(39).endswith(b" | login: ")
        assert len(list((directory / "state/ttybridge/log").glob(f"{NAME}.log.*"))) > 1
        follower.send_signal(signal.SIGINT)
        assert follower.wait(10) == 130
        assert follower.stderr.read() == b""
        follower.stdout.close()
        follower.stderr.close()


def test_nobody_reading_ends_it_quietly(user: User, directory: Path) -> None:
    with Fake("echo") as vm, served(user, directory, vm.url) as bridge:
        bridge.wait_message("ONLINE")
        eventually(lambda: user.run(["ttybridge", "log", NAME]).stdout)
        follower = user.popen(
            ["ttybridge", "log", NAME, "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert follower.stdout is not None
        assert b"log begins" in follower.stdout.readline()
        follower.stdout.close()  # and nothing is printed any more
        _, error = follower.communicate(timeout=10)
        assert error == b""


def fill_disk(bridge: Bridge, size: str) -> None:
    """From now on no file of the service's grows beyond ``size``."""
    limit = f"--fsize={size}:"
    done = bridge.user.run(["prlimit", "--pid", str(bridge.process.pid), limit])
    assert done.returncode == 0, done.stderr


def test_a_full_disk_is_said_once_and_the_console_goes_on(user: User, directory: Path) -> None:
    with Fake("echo") as vm, served(user, directory, vm.url) as bridge:
        bridge.wait_message("ONLINE")
        log = directory / f"state/ttybridge/log/{NAME}.log"
        eventually(log.exists)
        fill_disk(bridge, "5000")
        text = b"".join(b"%08d\r\n" % n for n in range(1000))
        with Client(bridge.raw) as client:
            for at in range(0, len(text), 1000):
                client.type(text[at : at + 1000])
                assert client.read_exactly(1000) == text[at : at + 1000]
            bridge.wait_message(f"^{NAME}: log: {log}: File too large; trying again$")
            client.type(b"still here\r\n")
            client.read_until(b"still here\r\n")
        assert log.stat().st_size == 5000
        fill_disk(bridge, "unlimited")
        bridge.wait_message(f"^{NAME}: log: {log}: is written again$")
        eventually(lambda: lines(user)[-1] == "| still here")
        assert len([m for m in bridge.messages if "log:" in m]) == 2
    logged = [line for line in lines(user) if line[0] == "|"]
    assert logged == [f"| {n:08}" for n in range(1000)] + ["| still here"]


def test_a_reload_turns_logs_on_and_off(user: User, directory: Path) -> None:
    with Fake("echo") as vm, served(user, directory, vm.url) as bridge:
        bridge.wait_message("ONLINE")
        eventually(lambda: user.run(["ttybridge", "log", NAME]).stdout)
        config = directory / "config.toml"
        text = config.read_text()

        def ends(shown: str) -> bool:
            return lines(user)[-1].endswith(shown)

        for setting, shown in (("log = false", "log ends"), ("log = true", "log begins")):
            config.write_text(text.replace("log = true", setting))
            bridge.process.send_signal(signal.SIGHUP)
            bridge.wait_message("reloaded: 1 changed", after=len(bridge.messages) - 1)
            eventually(partial(ends, shown))
        assert not [m for m in bridge.messages if "log:" in m]


def test_without_a_log_it_says_how_to_have_one(user: User, directory: Path) -> None:
    for name in ("vm1", "../../etc/passwd", "\x1b[2J"):
        done = user.run(["ttybridge", "log", name])
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"ttybridge: no log of '.*' in .*: set log = true .*\n", done.stderr)
        assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grep", "("], r"--grep '\(': missing \)"),
        (["--grep", "a{99999999999}"], r"--grep 'a\{9+\}': the repetition number is too large"),
        (["--grep", "a{" + "9" * 5000 + "}"], r"--grep 'a\{9+\.\.\.': Exceeds the limit"),
        (["--grep", "[[a"], r"--grep '\[\[a': unterminated"),
        (["--grep", "(" * 5000], r"--grep '\(+\.\.\.': "),
        (["--since", "yesterdayish"], "--since: found 'yesterdayish'; allowed: 90s, 10min"),
        (["--frob"], r"unrecognized arguments: --frob \(see ttybridge log --help\)"),
    ],
)
def test_wrong_words_are_named_in_one_line(user: User, options: list[str], message: str) -> None:
    done = user.run(["ttybridge", "log", "vm1", *options])
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(f"ttybridge: {message}", done.stderr)
    assert done.stderr.count("\n") == 1


def test_a_damaged_file_is_named_in_one_line(user: User, directory: Path) -> None:
    log = directory / "state" / "ttybridge" / "log"
    log.mkdir(parents=True)
    for text in (b"not compressed", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03cut"):
        (log / "vm1.log.000001.gz").write_bytes(text)
        for path in (log, *log.parents[:2], *log.iterdir()):
            os.chmod(path, 0o755)
        done = user.run(["ttybridge", "log", "vm1"])
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("ttybridge: the log cannot be read: ")
        assert done.stderr.count("\n") == 1
