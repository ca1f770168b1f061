"""The user's own directories: where the environment says, if that can be believed.

``su`` leaves another user's variables behind.  Root, who may write anywhere, would make
directories there that their owner cannot enter.  So a place that is somebody else's is
passed over, and a relative one, as the XDG Base Directory Specification wants it.
"""

import os
import pwd
import stat
from pathlib import Path

from bridge.base.printable import printable


def default_directory() -> Path:
    """Where the runtime directory is without --runtime-dir; never in /tmp."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    bases = [Path(named)] if named else []
    # `su` and cron leave the variable out; the directory may still be there.
    for base in [*bases, _session()]:
        if not _doubt(base):
            return base / "ttybridge"
    return _without_session()


def default_directories() -> list[Path]:
    """All that may be the default one: for this shell, or for another of the same user."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    bases = [Path(named)] if os.path.isabs(named) else []
    return [*(base / "ttybridge" for base in [*bases, _session()]), _without_session()]


def passed_over() -> str:
    """Why the runtime directory is not where XDG_RUNTIME_DIR says; empty if it is."""
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    if named:
        doubt = _doubt(Path(named))
        return f"XDG_RUNTIME_DIR={printable(named)} {doubt}" if doubt else ""
    without = "XDG_RUNTIME_DIR is not set, as without a login session"
    return without if _doubt(_session()) else ""


def session_directory() -> Path:
    """Where the user's own systemd is, if there is one."""
    named = _named("XDG_RUNTIME_DIR") or _session()
    try:
        return named if named.stat().st_uid == os.getuid() else _session()
    except OSError:  # nobody's
        return named


def config_home() -> Path:
    """Whosever it is: to read a file does no harm."""
    return _named("XDG_CONFIG_HOME") or (_named("HOME") or _passwd_home()) / ".config"


def state_home() -> Path:
    return _own("XDG_STATE_HOME") or (_own("HOME") or _passwd_home()) / ".local" / "state"


def _session() -> Path:
    return Path(f"/run/user/{os.getuid()}")


def _without_session() -> Path:
    return state_home() / "ttybridge" / "run"


def _named(variable: str) -> Path | None:
    path = Path(os.environ.get(variable, ""))
    return path if path.is_absolute() else None


def _own(variable: str) -> Path | None:
    """What ``variable`` names, if we may have it: nobody else's, nor below another's."""
    path = _named(variable)
    for there in (path, *path.parents) if path is not None else ():
        try:
            # Root's places are everybody's, as far as their modes go.
            return path if there.stat().st_uid in {os.getuid(), 0} else None
        except OSError:  # it would have to be made
            continue
    return path


def _passwd_home() -> Path:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # a container's uid may have no entry; the error then names this place
        return Path("/")


def _doubt(base: Path) -> str:
    """Why no runtime directory of ours should be in ``base``; empty if one may be."""
    if not base.is_absolute():
        return "is not an absolute path"
    try:
        status = base.stat()
    except OSError as error:
        return f"cannot be used ({(error.strerror or str(error)).lower()})"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a directory"
    if status.st_uid != os.getuid():
        return f"belongs to uid {status.st_uid}, not to you"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"is writable by others (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""
