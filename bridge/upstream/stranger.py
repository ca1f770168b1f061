"""What answers in a console's place, told by the first of what it says.  Pure.

A wrong port, a wrong scheme, a chardev without ``websocket=on``: each has its sentence.
"""

import re

from bridge.base.printable import printable
from bridge.settings.url import UpstreamUrl
from bridge.upstream.protocol import End, Retry

# Statuses of a server that has no websocket there: pages, redirections, nothing of the name.
_PAGES = re.compile(rb"HTTP/1\.[01] ([23]\d\d|404|405) ?")
_QEMU = re.compile(rb"\r\nServer: QEMU VNC", re.IGNORECASE)

WANTS_TLS = "does it want TLS? The URL would be wss://"


def judge(said: bytes, url: UpstreamUrl) -> End:
    """How a connection ends whose server said anything but 101 to a websocket's request."""
    line = said.partition(b"\r\n")[0]
    if said.startswith(b"\x15\x03"):  # an alert (RFC 8446, 5.1)
        return End("what answers speaks TLS; the URL would be wss://", Retry.NO)
    if said.startswith(b"SSH-"):
        says = printable(line.rstrip(b"\n"), 60)
        return End(f"an ssh server answers there, not a console ('{says}'); wrong port?", Retry.NO)
    if not re.match(rb"HTTP/1\.[01] \d\d\d", line):
        return End(
            f"what answers is not a websocket (it says '{printable(line, 40)}'); has the chardev"
            f" websocket=on? Without, the URL is {url.scheme.without_websocket}",
            Retry.NO,
        )
    return _judge_status(said, line, url)


def silent(limit: float, url: UpstreamUrl, *, amid_tls: bool) -> End:
    """How a connection ends whose server has accepted it, and has said nothing until ``limit``."""
    what, setting, scheme = "websocket", "websocket=on", url.scheme.without_websocket
    if amid_tls:
        what, setting, scheme = "TLS", "tls-creds", url.scheme.without_tls
    return End(
        f"connected, but no answer in {limit:g} s: no {what} server; has the chardev {setting}?"
        f" Without, the URL is {scheme}",
        Retry.NO,
    )


def _judge_status(said: bytes, line: bytes, url: UpstreamUrl) -> End:
    says = printable(line, 60)
    if line.startswith(b"HTTP/1.1 403 Request Entity"):  # QEMU's
        return End("refused: QEMU takes 32 lines and 4096 bytes of headers", Retry.NO)
    if line[9:10] == b"5":  # a proxy, say, whose server is not there
        return End(f"answered: {says}")
    if line[9:12] == b"400" and b"HTTPS" in said and not url.tls:
        return End(f"refused: {says}; {WANTS_TLS}", Retry.NO)
    if _QEMU.search(said):
        hint = "; QEMU's path is exactly /" if line[9:12] == b"404" else ""
        return End(f"refused: {says}{hint}", Retry.NO)
    if _PAGES.match(line):
        where = "port" if url.resource == "/" else "port or path"
        return End(
            f"a web server answers there, not a QEMU console ('{says}'); wrong {where}?", Retry.NO
        )
    return End(f"refused: {says}", Retry.NO)
