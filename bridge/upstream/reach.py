"""From a URL and what it takes to be let in, to a connection and what is spoken on it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio

from bridge.settings.access import Access
from bridge.settings.url import TcpAddress, UpstreamUrl
from bridge.upstream.certificate import Certificate
from bridge.upstream.credentials import CredentialError, blind_context, header_values, tls_context
from bridge.upstream.dial import DialError, dial
from bridge.upstream.protocol import Raw, Speech
from bridge.upstream.telnet import TelnetSpeech
from bridge.upstream.tls import Tls
from bridge.upstream.transport import Transport, TransportError
from bridge.upstream.websocket import Wire

# For a second connection that only looks at the certificate, for an error's text.
LOOK_LIMIT = 2.0
READ_SIZE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Reach:
    """How one console is reached; ``connect`` as often as needed."""

    url: UpstreamUrl
    access: Access
    telnet: bool = False
    """Within what is spoken otherwise."""

    async def connect(self) -> tuple[Transport, Speech]:
        """Raises DialError, or CredentialError for files of ours that do not do.

        Dials first: to read the system's authorities takes some 15 ms, too much for each of
        many consoles whose VM is not there.
        """
        connection = await dial(self.url.address, pushes_back=self.url.lossless)
        try:
            return self._transport(connection), self._speech()
        except CredentialError:
            await Transport(connection).leave(-math.inf)
            raise

    def resume(
        self, connection: trio.socket.SocketType, state: Mapping[str, Any]
    ) -> tuple[Transport, Speech]:
        """Go on with a connection of another process, without TLS; ``state`` is the speech's."""
        inner = state["below"] if self.telnet else state
        speech = Wire.restore(self.url, inner) if self.url.websocket else Raw.restore(inner)
        return Transport(connection), TelnetSpeech.restore(speech, state) if self.telnet else speech

    def _transport(self, connection: trio.socket.SocketType) -> Transport:
        if not self.url.tls:
            return Transport(connection)
        return Tls(
            connection,
            tls_context(self.access),
            self._host,
            self.access,
            self._look,
            bytewise=self.url.lossless,
        )

    def _speech(self) -> Speech:
        speech: Speech = Raw()
        if self.url.websocket:
            speech = Wire(self.url, list(header_values(self.access)))
        return TelnetSpeech(speech) if self.telnet else speech

    @property
    def _host(self) -> str:
        """As it would stand in a certificate: an address without its zone."""
        assert isinstance(self.url.address, TcpAddress)
        return self.url.address.host.partition("%")[0]

    async def _look(self) -> Certificate | None:
        """What certificate does the server show, whoever vouches for it?"""
        with trio.move_on_after(LOOK_LIMIT):
            try:
                transport = Tls(await dial(self.url.address), blind_context(), self._host, Access())
            except DialError:
                return None
            try:
                transport.send(b"")
                while not transport.open and not transport.ended:
                    await trio.lowlevel.wait_readable(transport.socket)
                    transport.read(READ_SIZE)
                return transport.certificate()
            except TransportError:
                return None
            finally:
                await transport.leave(-math.inf)
        return None
