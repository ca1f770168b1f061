"""Where a machine's QMP is: ``unix:///PATH`` or ``tcp://HOST:PORT``."""

import re

from bridge.base.errors import UrlError
from bridge.base.printable import printable
from bridge.settings.url import MAX_UNIX_PATH, TcpAddress, UnixAddress

Address = TcpAddress | UnixAddress

ALLOWED_ADDRESS = "unix:///PATH or tcp://HOST:PORT"


def address_text(address: Address) -> str:
    return f"tcp://{address}" if isinstance(address, TcpAddress) else f"unix://{address}"


def parse_address(text: object) -> Address:
    """Read a QMP address; raises UrlError."""
    if not isinstance(text, str):
        raise UrlError(f"found {printable(str(text))}; allowed: {ALLOWED_ADDRESS}")
    unix = re.fullmatch(r"(?:unix:(?://)?)?(/[^\0]*[^\0/])", text)
    tcp = re.fullmatch(r"tcp:(?://)?(?:\[([0-9A-Fa-f:.]+)\]|([^:/\s]+)):([0-9]{1,5})", text)
    if unix and len(unix[1].encode()) <= MAX_UNIX_PATH:
        return UnixAddress(unix[1])
    if tcp and 0 < int(tcp[3]) < 65536:
        return TcpAddress(tcp[1] or tcp[2], int(tcp[3]))
    raise UrlError(f"QMP address '{printable(text)}': allowed: {ALLOWED_ADDRESS}")
