"""An ordinary user of the system, whom the service and the tools run as.

Root would hide EBUSY and every permission.  So as root the tests run everything as
``games`` (and intruders as ``daemon``), from an installation that those may enter.
"""

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

_NOT_NEEDED = shutil.ignore_patterns(
    "pip*",
    "mypy*",
    "ruff*",
    "setuptools*",
    "hypothesis*",
    "__pycache__",
    "ttybridge*",
    "_ttybridge*",
)


class User:
    """Runs commands as one uid, with a HOME of its own."""

    def __init__(self, name: str, base: Path) -> None:
        self.other = os.geteuid() == 0
        account = pwd.getpwnam(name) if self.other else pwd.getpwuid(os.geteuid())
        self.name, self.uid, self.gid = account.pw_name, account.pw_uid, account.pw_gid
        self.home = base / f"home-{name}"
        self.home.mkdir()
        self.own(self.home)
        self.environment = {
            "PATH": f"{base / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "SHELL": "/bin/sh",
            "TERM": "xterm",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.directory("runtime")),
            "SCREENDIR": str(self.directory("screen")),
        }

    def own(self, path: Path) -> None:
        path.chmod(0o700)
        if self.other:
            os.chown(path, self.uid, self.gid)

    def directory(self, name: str) -> Path:
        """A new private directory."""
        path = self.home / name
        path.mkdir()
        self.own(path)
        return path

    def popen(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[bytes]":
        if self.other:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return subprocess.Popen(
            [str(word) for word in command],
            env={**self.environment, **(env or {})},
            cwd=self.home,
            **options,
        )

    def run(
        self,
        command: Sequence[str | Path],
        *,
        input: bytes = b"",  # noqa: A002 (as subprocess.run has it)
        env: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> "subprocess.CompletedProcess[str]":
        """Run to the end; output as text."""
        process = self.popen(
            command,
            env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = process.communicate(input, timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(
            process.args, process.returncode, out.decode(), err.decode()
        )


def install(base: Path) -> None:
    """Make ``base``/venv with ttybridge in it, from this checkout, for everybody to run."""
    venv = base / "venv"
    if os.geteuid() != 0:
        venv.symlink_to(sys.prefix)
        return
    interpreter = Path(sys.executable).resolve()
    subprocess.run([interpreter, "-m", "venv", "--without-pip", venv], check=True)
    packages = next(venv.glob("lib/python3*/site-packages"))
    shutil.copytree(sysconfig.get_path("purelib"), packages, ignore=_NOT_NEEDED, dirs_exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    offline = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, *offline, str(REPOSITORY)], check=True)


def share(base: Path, venv: Path) -> None:
    """Have ``venv`` find what is installed for the tests."""
    packages = next((base / "venv").glob("lib/python3*/site-packages"))
    line = f"import site; site.addsitedir({str(packages)!r})\n"
    next(venv.glob("lib/python3*/site-packages")).joinpath("ours.pth").write_text(line)


def make_base() -> Path:
    """A directory that every user may enter."""
    base = Path(tempfile.mkdtemp(prefix="ttybridge-"))
    base.chmod(0o755)
    return base
