"""``ttybridge install``: the user's systemd runs this installation from now on.

Owns the unit file and nothing else of the user's: a unit of another origin is not
overwritten, the configuration is made if it is missing and never touched again.
"""

import argparse
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.base.errors import StartError
from bridge.base.printable import printable
from bridge.commands import common as command
from bridge.kernel.homes import config_home, session_directory
from bridge.systemd import unit

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers

_FIRST_CONFIG = """\
# The consoles that ttybridge serves; `ttybridge check` reads this file and says what is wrong.
#
# [consoles.vm1]
# url = "ws://127.0.0.1:4555"
"""

_NO_MANAGER = """\
This shell does not reach a systemd of yours (su and sudo start none), so nothing was started.
Log in properly, as with ssh or `machinectl shell {user}@`, and it is. Or have your systemd
run always, which is called lingering; as root:
  loginctl enable-linger {user}
and then here:
  export XDG_RUNTIME_DIR=/run/user/{uid}
  systemctl --user daemon-reload
  systemctl --user start ttybridge"""

_LINGERING = """\
It runs from your first login to your last logout. To have it run from boot on, logged in or
not, which is called lingering:
  loginctl enable-linger"""


def add_to(commands: "Subparsers") -> None:
    install = commands.add_parser("install", help="have your systemd run ttybridge as a service")
    install.add_argument("--now", action="store_true", help="start it, too")
    install.add_argument("--config", type=Path, metavar="FILE", help="where consoles are listed")
    install.add_argument("--force", action="store_true", help="overwrite a unit of another origin")
    instead = install.add_mutually_exclusive_group()
    instead.add_argument("--print", action="store_true", help="only print the unit")
    instead.add_argument("--uninstall", action="store_true", help="stop it, remove the unit")
    command.directory_option(install)
    install.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    file = config_home() / "systemd" / "user" / unit.NAME
    if arguments.uninstall:
        return _uninstall(file, force=arguments.force)
    config = command.absolute(arguments.config or command.default_config())
    text = _unit_text(config, arguments.runtime_dir)
    if arguments.print:
        command.say(text.removesuffix("\n"))
        return 0
    _check_installation()
    systemctl = _Systemctl()
    changed = _write_unit(file, text, force=arguments.force)
    _offer_config(config)
    systemctl.call("enable", unit.NAME)
    if not systemctl.manager:
        print(_NO_MANAGER.format(user=_user(), uid=os.getuid()))
        return 1 if arguments.now else 0
    systemctl.call("daemon-reload")
    active = systemctl.active()
    if arguments.now and (changed or not active):
        systemctl.call("restart", unit.NAME)
        print("started")
    elif active:
        print("running; to make it anew, as after an upgrade: systemctl --user restart ttybridge")
    else:
        print("to start it now: systemctl --user start ttybridge")
    if not Path("/var/lib/systemd/linger", _user()).exists():
        print(_LINGERING)
    return 0


def _uninstall(file: Path, *, force: bool) -> int:
    if not os.path.lexists(file):
        print(f"not installed: no {file}")
        return 0
    if file.exists():  # else a link to nothing
        _refuse_foreign(file, force=force)
    systemctl = _Systemctl()
    systemctl.call("disable", *(["--now"] if systemctl.manager else []), unit.NAME)
    file.unlink(missing_ok=True)
    if systemctl.manager:
        systemctl.call("daemon-reload")
    print(f"removed {file}")
    return 0


def _unit_text(config: Path, runtime_dir: Path | None) -> str:
    # -P: the service starts in the home directory, where a directory named `bridge` would
    # be imported in our place.  Not the script: its first line cannot hold every path.
    words = [sys.executable, "-P", "-X", "faulthandler", "-m", "bridge", "run"]
    words += ["--config", str(config)]
    if runtime_dir is not None:
        words += ["--runtime-dir", str(command.absolute(runtime_dir))]
    from importlib import resources

    template = resources.files("bridge.systemd").joinpath(unit.NAME).read_text(encoding="utf-8")
    return unit.fill(template, words)


def _check_installation() -> None:
    """Raise StartError if systemd could not start what runs here."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    probe = [sys.executable, "-P", "-m", "bridge", "--version"]
    done = subprocess.run(probe, cwd="/", env=clean, capture_output=True, check=False)  # noqa: S603 (ourselves)
    if done.returncode != 0:
        raise StartError(
            f"this ttybridge cannot be started from elsewhere ({shlex.join(probe)} fails);"
            " install it first, as with pipx"
        )
    if ".cache" in Path(sys.prefix).parts:  # where uvx and pipx run unpack what they run once
        print(
            f"ttybridge: warning: {sys.prefix} may be cleaned up, and the service with it;"
            " install ttybridge, as with pipx",
            file=sys.stderr,
        )


def _write_unit(file: Path, text: str, *, force: bool) -> bool:
    """Tell whether there is anything new in it."""
    try:
        if file.exists():
            if file.read_bytes() == text.encode():
                print(f"unchanged: {file}")
                return False
            _refuse_foreign(file, force=force)
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.new")
        new.write_text(text, encoding="utf-8")
        new.rename(file)
    except OSError as error:
        raise StartError(f"{file}: {error.strerror}") from error
    print(f"wrote {file}")
    return True


def _refuse_foreign(file: Path, *, force: bool) -> None:
    try:
        ours = unit.is_ours(file.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise StartError(f"{file}: {error.strerror}") from error
    if not ours and not force:
        raise StartError(f"{file} was not written by ttybridge install; --force if it may go")


def _offer_config(config: Path) -> None:
    """A missing file would be an error of the service's; an empty one waits for consoles."""
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        with config.open("x", encoding="utf-8") as file:
            file.write(_FIRST_CONFIG)
        print(f"wrote {config}: list your consoles there")
    except FileExistsError:
        print(f"consoles: {config}")
    except OSError as error:
        raise StartError(f"{config}: {error.strerror}") from error


class _Systemctl:
    """``systemctl --user``, also where the shell has no session."""

    def __init__(self) -> None:
        program = shutil.which("systemctl")
        if program is None:
            raise StartError("no systemctl here: `ttybridge install` is for systemd")
        self._program = program
        session = session_directory()  # `su` may have left another user's in the variable
        self._environment = os.environ | {"XDG_RUNTIME_DIR": str(session)}
        self.manager = os.access(session / "systemd" / "private", os.W_OK)
        """Is there a user's systemd to talk to?  Without one, units can still be enabled."""
        if not self.manager:
            self._environment["SYSTEMD_OFFLINE"] = "1"

    def call(self, *words: str) -> None:
        """Raises StartError with what it says."""
        done = self._run(*words)
        if done.returncode != 0:
            said = "; ".join(done.stderr.split("\n")).strip("; ")
            raise StartError(f"systemctl --user {shlex.join(words)}: {printable(said, 1000)}")

    def active(self) -> bool:
        return self._run("is-active", unit.NAME).returncode == 0

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(  # noqa: S603 (our own words)
            [self._program, "--user", "--quiet", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
        )


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
