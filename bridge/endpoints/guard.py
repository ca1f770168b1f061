"""What does a local connection's first read look like: a web page's doing, or telnet?

A page in the user's own browser may send requests to any local port, and passes every
check of ownership (the browser runs as the user).  Its request has a shape: an HTTP
request line (or the long beginning of one), the HTTP/2 preface, or a TLS ClientHello.  Only the first read is judged,
and nothing is ever held back to complete it, so a person's typing is never delayed; what
comes in pieces (no browser sends it so) or without HTTP's shape passes.

Telnet on a raw port is no danger, but a user who is about to wonder: the option bytes are
typed into the guest, and lines arrive whole.
"""

import re

_WEB_SHAPED = re.compile(
    rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE|PRI) [^ \r\n]* HTTP/\d"  # RFC 9112, 3
    rb"|(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH) (?:/|http)[^ \r\n]{500}"  # a target longer than the read: no person's
    rb"|\x16\x03[\x00-\x04]..[\x01]",  # RFC 8446, 5.1 and 4: handshake record, ClientHello
    re.DOTALL,
)


def looks_like_web(first_read: bytes) -> bool:
    """Tell whether ``first_read`` starts like HTTP or TLS."""
    return _WEB_SHAPED.match(first_read) is not None


# IAC and a command of RFC 854 or 1184.  PuTTY speaks at once; inetutils' telnet, in line
# mode, when its user presses ^C (IAC IP).  0xff is in no UTF-8 text.
_TELNET_SHAPED = re.compile(rb"\xff[\xec-\xfe]")


def looks_like_telnet(first_read: bytes) -> bool:
    """Tell whether ``first_read`` starts with a telnet command."""
    return _TELNET_SHAPED.match(first_read) is not None
