"""The token that web pages must show at the websocket endpoint: the user's own, or made here.

One that was made is kept in the runtime directory, so that what a page was told once is
still right after a restart; who removes the file gets another one at the next start.
"""

import os
import re
import secrets
import stat
from pathlib import Path

from bridge.base.errors import StartError
from bridge.base.printable import printable

FILE = ".token"

# As it may stand in a query (RFC 3986, 2.3) and in a list of subprotocols (RFC 9110, 5.6.2).
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,256}")
ALLOWED = "one line of 16 to 256 of A-Z a-z 0-9 . _ ~ -"


def chosen(path: Path) -> str:
    """The token in the user's own file; raises StartError."""
    try:
        return _read(path)
    except OSError as error:
        raise _error(path, error) from error


def kept(path: Path) -> str:
    """The token at ``path``, made and written there if there is none yet; raises StartError."""
    try:
        return _read(path)
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
    except OSError as error:
        raise _error(path, error) from error
    new = path.with_name(f"{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
        new.rename(path)  # never there in part
    except OSError as error:
        raise _error(path, error) from error
    return token


def _read(path: Path) -> str:
    # Non-blocking: the path may be a pipe's.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in {os.geteuid(), 0}:
            raise StartError(f"websocket token {_name(path)}: not a file of yours")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise StartError(
                f"websocket token {_name(path)}: others may read it (mode {mode:04o}); chmod 600 it"
            )
        text = file.read(1024).decode("latin-1").removesuffix("\n").removesuffix("\r")
    if not _TOKEN.fullmatch(text):
        raise StartError(f"websocket token {_name(path)}: not a token; allowed: {ALLOWED}")
    return text


def _name(path: Path) -> str:
    return printable(str(path))


def _error(path: Path, error: OSError) -> StartError:
    return StartError(f"websocket token {_name(path)}: {error.strerror}")
