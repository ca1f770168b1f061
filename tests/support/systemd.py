"""A real ``systemd --user``, in a mount namespace and a control group of its own.

Where no session manager runs (a container, CI), root can start one for an ordinary user:
it wants a /run that says that systemd booted the machine, and a control group that it may
write.  Nothing of the machine's own systemd, if there is one, is touched.
"""

import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.support.user import User
from tests.support.waiting import eventually

PROGRAM = "/lib/systemd/systemd"
UNIT = "ttybridge.service"
URL = "ws://127.0.0.1:1"  # nobody listens there

_HIERARCHIES = [
    Path("/sys/fs/cgroup", name)
    for name in ("systemd", "unified", "")  # v1, hybrid, v2
]
_numbers = itertools.count()

# All in one process from the start, so that its pid is the manager's.
_START = """
for group; do echo $$ > "$group/cgroup.procs" || exit; done
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chown "$uid:$gid" "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
exec setpriv --reuid="$uid" --regid="$gid" --clear-groups "$program" --user --unit=basic.target
"""


class UserManager:
    """The user's systemd, with ``home`` as his home; a context."""

    def __init__(self, user: User, home: Path) -> None:
        self._require()
        self.user, self.home = user, home
        self.environment = {
            **user.environment,
            "HOME": str(home),
            "XDG_RUNTIME_DIR": f"/run/user/{user.uid}",
        }
        self._groups = self._make_groups()
        self._log = home / "systemd.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-euc", _START, "sh", *map(str, self._groups)],
                env={
                    **self.environment,
                    "PATH": "/usr/bin:/bin",  # as a login's systemd has it: no venv
                    "SYSTEMD_LOG_TARGET": "console",
                    "uid": str(user.uid),
                    "gid": str(user.gid),
                    "program": PROGRAM,
                },
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        eventually(self._is_up, what="systemd --user")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(15)
        finally:
            self._process.kill()
            self._process.wait()
            self._remove_groups()
            if kind is not None:
                print("messages of systemd:", self.messages, sep="\n")

    @property
    def messages(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def runtime(self) -> Path:
        """The user's runtime directory as we see it from outside."""
        return Path(f"/proc/{self._process.pid}/root/run/user/{self.user.uid}")

    def popen(self, *command: str | Path) -> "subprocess.Popen[str]":
        """Start as the user beside his systemd."""
        return subprocess.Popen(
            [
                *("nsenter", f"--target={self._process.pid}", "--mount", "--wd=/", "--", "setpriv"),
                *(f"--reuid={self.user.uid}", f"--regid={self.user.gid}", "--clear-groups"),
                *map(str, command),
            ],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str | Path) -> "subprocess.CompletedProcess[str]":
        process = self.popen(*command)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def systemctl(self, *words: str) -> str:
        """Run ``systemctl --user``, which must succeed."""
        done = self.run("systemctl", "--user", *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}{self.messages}"
        return done.stdout

    def show(self, name: str) -> str:
        """A property of the service."""
        return self.systemctl("show", "--value", "--property", name, UNIT).rstrip("\n")

    def pid(self) -> int:
        return int(self.show("MainPID"))

    def drop_in(self, text: str) -> None:
        """Change the unit as the user would."""
        directory = self.home / ".config/systemd/user" / f"{UNIT}.d"
        self.run("mkdir", "-p", directory)
        number = len(list(directory.iterdir()))
        (directory / f"{number}.conf").write_text(text)
        self.systemctl("daemon-reload")

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self.messages
        done = self.run("systemctl", "--user", "is-active", "basic.target")
        return done.stdout == "active\n"

    @staticmethod
    def _require() -> None:
        if not Path(PROGRAM).exists() or shutil.which("systemctl") is None:
            pytest.skip("NOT TESTED: systemd is not installed (contrib/check as root installs it)")
        if os.geteuid() != 0:
            pytest.skip("NOT TESTED: a systemd of its own for the tests can only root start")
        tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
        if tried.returncode != 0:
            pytest.skip(f"NOT TESTED: no mount namespace: {tried.stderr.decode().strip()}")
        if not any(os.access(h / "cgroup.procs", os.W_OK) for h in _HIERARCHIES):
            pytest.skip("NOT TESTED: no control group that may be written")

    def _make_groups(self) -> list[Path]:
        name = f"ttybridge-test-{os.getpid()}-{next(_numbers)}"
        groups = [h / name for h in _HIERARCHIES if os.access(h / "cgroup.procs", os.W_OK)]
        for group in groups:
            group.mkdir()
            for path in (group, *group.iterdir()):
                os.chown(path, self.user.uid, self.user.gid)
        return groups

    def _remove_groups(self) -> None:
        for group in self._groups:
            for directory, _, files in os.walk(group, topdown=False):
                if "cgroup.procs" in files:
                    for pid in Path(directory, "cgroup.procs").read_text().split():
                        os.kill(int(pid), 9)
                eventually(lambda directory=directory: _removed(directory), what=directory)  # type: ignore[misc]


def _removed(group: str) -> bool:
    """A group goes when its last process is gone."""
    try:
        os.rmdir(group)
    except OSError:
        return False
    return True


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
