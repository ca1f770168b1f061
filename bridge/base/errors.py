"""What can go wrong because of somebody else, named by what the user can do about it.

Only these cross a module's border; foreign errors are translated where they are
met.  The CLI prints ``str(error)`` as one line and exits with ``error.exit_code``.
Anything else that travels up is a bug of ours and is meant to be loud.
"""


class BridgeError(Exception):
    """One line for the user; it says what was wrong, where, and what is allowed."""

    exit_code = 1


class StartError(BridgeError):
    """The service cannot run here and now: a port in use, a directory, a second service."""


class UsageError(BridgeError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(BridgeError):
    """The configuration file is bad or missing (78 is EX_CONFIG of sysexits.h)."""

    exit_code = 78


class UrlError(BridgeError):
    """An upstream URL that cannot be used; the reader of argv or file says where it stood."""

    exit_code = 2


class AskError(BridgeError):
    """The service has refused what it was asked, and said why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class GoneError(BridgeError):
    """There was a service, and there is none any more; or the console has been removed."""
