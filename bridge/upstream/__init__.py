"""The connection to a console's server.

certificate  * what a certificate says
credentials    certificates and secrets in files
protocol     * what is spoken: the face of it, and bytes as they are
stranger     * what answers in a console's place
websocket    * RFC 6455 as QEMU speaks it
telnet       * telnet within what is spoken
flood        * when a guest is read that prints without end
backoff        how long until the next attempt
dial           connecting
transport      a socket's bytes, and leaving
tls            TLS on a socket
reach          from a URL to a connection
upstream       made, kept drained, made again for ever
"""
