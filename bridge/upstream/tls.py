"""TLS between a socket and what is spoken on it, and its errors in the user's words.

OpenSSL works on memory only (ssl.SSLObject), so that ``send`` stays a plain call from a key
to the socket.  Whatever has come is decrypted at once, up to the last whole record: nothing
ever waits in here while the socket looks silent.

Five things can be wrong, and the error says which: the certificate's *name*, *authority*,
*time*, or *pin*, or the *client certificate*.
"""

import enum
import hashlib
import math
import re
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from bridge.base.printable import printable
from bridge.settings.access import Access
from bridge.upstream.certificate import Certificate
from bridge.upstream.protocol import End, Retry
from bridge.upstream.transport import Transport, TransportError

# QEMU reads 4096 bytes of a record, and the rest only when more comes: it stays in GnuTLS,
# where QEMU does not look.
RECORD = 2048

# Since TLS 1.3 a server judges the client's certificate after the client's handshake is
# over.  QEMU says nothing then and closes, a round trip later.
LATE = 2.0


class Doubt(enum.Enum):
    """What can be wrong with the server's certificate."""

    NAME = "name"
    AUTHORITY = "authority"
    TIME = "time"


# X509_V_ERR_* (openssl/x509_vfy.h); all others are about who vouches for it.
_DOUBTS = {9: Doubt.TIME, 10: Doubt.TIME, 62: Doubt.NAME, 64: Doubt.NAME}

# Alerts (RFC 8446, 6.2) that are about the client's certificate, as OpenSSL names them.
_ABOUT_OURS = re.compile(
    r"ALERT_(BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|CERTIFICATE_|UNKNOWN_CA|ACCESS_DENIED)"
)

# The records that may come first (RFC 8446, 5.1): an alert, a handshake's.
_FIRST = b"\x15\x16"

Look = Callable[[], Awaitable[Certificate | None]]


class Tls(Transport):
    """A socket with TLS on it, of which we are the client."""

    open = False
    portable = False  # OpenSSL's state can't be taken out of it

    def __init__(
        self,
        connection: trio.socket.SocketType,
        context: ssl.SSLContext,
        host: str,
        access: Access,
        look: Look | None = None,
        *,
        bytewise: bool = False,
    ) -> None:
        """``look`` is asked, after this connection, what certificate the server shows.

        ``bytewise`` says of the server that it may read less than a record at a time.
        """
        super().__init__(connection)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._host, self._access, self._look = host, access, look
        self._bytewise = bytewise
        self._early = b""  # what is to be sent after the handshake
        self._since = -math.inf  # when that was over
        self._payload_came = False

    def certificate(self) -> Certificate | None:
        """The server's, once open."""
        der = self._tls.getpeercert(binary_form=True)
        try:
            return Certificate.parse(der) if der else None
        except ValueError:
            return None

    def send(self, data: bytes) -> None:
        try:
            if self.open:
                self._encrypt(data)
            else:
                self._early += data
                self._handshake()
        except ssl.SSLError as error:
            raise TransportError(self._failure(error)) from error
        self._write(self._outgoing.read())

    def read(self, limit: int) -> bytes:
        first = not self.heard
        data = self._read(limit)
        if data:
            if first and data[0] not in _FIRST:
                said, scheme = printable(data, 40), "tcp" if self._bytewise else "ws"
                reason = f"what answers does not speak TLS (it says '{said}')"
                raise TransportError(End(f"{reason}; the URL would be {scheme}://", Retry.NO))
            self._incoming.write(data)
        elif self.ended:
            self._incoming.write_eof()
        else:
            return b""
        try:
            if not self.open:
                self._handshake()
            return self._decrypt(limit) if self.open else b""
        except ssl.SSLError as error:
            raise TransportError(self._failure(error)) from error
        finally:
            # Of the handshake, an answer to a change of keys, or an alert that says why.
            if self._outgoing.pending:
                self._write(self._outgoing.read())

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self._check_pin()
        self.open, self._since = True, trio.current_time()
        self._encrypt(self._early)
        self._early = b""

    def _encrypt(self, data: bytes) -> None:
        # A plain chardev of QEMU reads as much of a record as its UART has room for, and the
        # rest when the socket has more: so the last byte goes alone, and nothing stays behind.
        body, last = (data[:-1], data[-1:]) if self._bytewise else (data, b"")
        for at in range(0, len(body), RECORD):
            self._tls.write(body[at : at + RECORD])
        if last:
            self._tls.write(last)

    def _decrypt(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        try:
            while piece := self._tls.read(limit):
                pieces.append(piece)
            self.ended = True  # said so, by close_notify
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # A VM that is killed does not say it.  Whoever can forge the end of a TCP
            # stream gains nothing by it here.
            self.ended = True
        self._payload_came = self._payload_came or bool(pieces)
        if self.ended and self._just_opened:
            raise TransportError(self._refused("the server closed right after the handshake"))
        return b"".join(pieces)

    @property
    def _just_opened(self) -> bool:
        return self.open and not self._payload_came and trio.current_time() < self._since + LATE

    def _lost(self, error: OSError) -> End:
        if self._just_opened:  # our request was still unread when it closed
            return self._refused("the server closed right after the handshake")
        return super()._lost(error)

    def _farewell(self) -> None:
        """Say close_notify: without it QEMU keeps a client that has typed to a deaf guest."""
        if self.open:
            with suppress(ssl.SSLError):  # it waits for the other's, which we need not see
                self._tls.unwrap()
            self._unsent += self._outgoing.read()

    def _check_pin(self) -> None:
        der = self._tls.getpeercert(binary_form=True) or b""
        found = hashlib.sha256(der).hexdigest()
        if self._access.pin not in {None, found}:
            raise TransportError(
                End(
                    f"certificate pin: the server's certificate has the SHA-256 {found}; if you"
                    " know why it changed, set pin to that",
                    Retry.NO,
                )
            )

    def _failure(self, error: ssl.SSLError) -> End:
        """What OpenSSL's error means."""
        if isinstance(error, ssl.SSLCertVerificationError):
            doubt = _DOUBTS.get(error.verify_code, Doubt.AUTHORITY)
            said = printable(error.verify_message)

            async def explain() -> str:
                return self._doubtful(doubt, said, await self._look() if self._look else None)

            # In time it may be renewed; a name or an authority is the user's to mend.
            retry = Retry.MAYBE if doubt is Doubt.TIME else Retry.NO
            return End(self._doubtful(doubt, said, None), retry, explain)
        reason = (error.reason or "unknown error").replace("_", " ").lower()
        if _ABOUT_OURS.search(error.reason or ""):
            return self._refused(f"the server refused: {reason}")
        if self.open:
            return End(f"connection lost: TLS: {reason}")
        if isinstance(error, ssl.SSLEOFError):
            return End("the connection was closed during the TLS handshake")
        hint = "" if self._access.cert else "; the server may want a client certificate"
        return End(f"the TLS handshake failed: {reason}{hint}", Retry.NO)

    def _refused(self, what: str) -> End:
        sent = self._access.cert
        hint = (
            f"{sent} was sent: is it valid, from an authority that the server trusts, and allowed"
            " (QEMU's tls-authz)?"
            if sent
            else "none was sent: set cert and key"
        )
        return End(f"client certificate: {what}; {hint}", Retry.MAYBE)

    def _doubtful(self, doubt: Doubt, said: str, seen: Certificate | None) -> str:
        """One line that says what is wrong and how to mend it, as far as is ``seen``."""
        text = f"certificate {doubt.value}: {said}"
        if seen is None:
            return text
        pin = f"if you are sure that it is this server's, pin = {seen.sha256}"
        match doubt:
            case Doubt.NAME:
                names = ", ".join(seen.names[:5]) or "nobody"
                return (
                    f"certificate name: it is for {names}, not for {self._host}; use its name in"
                    f" the URL, or {pin}"
                )
            case Doubt.TIME:
                return f"{text}; the server's is valid {seen.period}"
            case Doubt.AUTHORITY:
                trusted = self._access.ca or "this system"
                return (
                    f"{text}: issued by {seen.issuer}, whom {trusted} does not know; set ca to"
                    f" the authority's file, or {pin}"
                )
