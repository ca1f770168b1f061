"""Where local programs come in.

guard       * the shape of a client's first read
pty           a pseudo-terminal, nursed
sockets       raw, telnet and Unix sockets
wsserver    * RFC 6455 as a server, and who is let in
token         the secret that web pages need
websockets    all consoles as websockets on one port
"""
