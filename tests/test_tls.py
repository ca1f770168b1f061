"""TLS to QEMU: what must hold does, what does not is named, and the console is left free.

Against real virtual machines with ``tls-creds-x509``; other servers where QEMU never answers so.
"""

import hashlib
import random
import re
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from bridge.upstream.certificate import Certificate
from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.certificates import AGO, LONG_AGO, Authority
from tests.support.client import Client
from tests.support.qemu import Qemu
from tests.support.user import User
from tests.support.waiting import eventually


def run(user: User, directory: Path, url: str, *lines: str) -> Bridge:
    """A bridge with one console, ``vm``, of ``url`` and with further settings."""
    config = directory / "config.toml"
    config.write_text("\n".join([f'[consoles.vm]\nurl = "{url}"', *lines]))
    config.chmod(0o644)
    return Bridge(user, directory / "run", "--config", str(config))


def ca(authority: Authority) -> str:
    return f'ca = "{authority.ca}"'


@pytest.fixture
def authority(user: User, directory: Path) -> Authority:
    return Authority(user, directory / "authority")


@pytest.fixture
def vm(boot: Boot, authority: Authority) -> Qemu:
    return boot("echofifo", tls=authority.directory)


def pinned(authority: Authority) -> str:
    der = ssl.PEM_cert_to_DER_cert(authority.server.cert_chain_pems[0].bytes().decode())
    return hashlib.sha256(der).hexdigest()


def test_keys_and_a_paste_of_more_than_a_record_over_wss(
    user: User,
    directory: Path,
    vm: Qemu,
    authority: Authority,
    figure: Callable[[str, list[float]], None],
) -> None:
    """QEMU reads 4096 bytes of a TLS record and forgets the rest until more comes."""
    data = random.Random(1).randbytes(8192)
    with run(user, directory, vm.url, ca(authority)) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        client.reach_echo()
        seconds = []
        for key in data[:100]:
            began = time.monotonic()
            client.type(bytes([key]))
            assert client.read_exactly(1)[0] == key
            seconds.append(time.monotonic() - began)
        client.type(data)
        assert client.read_exactly(len(data)) == data
    assert statistics.median(seconds) < 0.01  # not a tenth of what a delayed ACK would cost
    figure("a key over wss and back", seconds)


def test_a_paste_in_direct_mode_does_not_stall(
    user: User, directory: Path, boot: Boot, authority: Authority
) -> None:
    """Whole frames in one burst, with nothing behind them that would push their rest on."""
    vm = boot("deaf", tls=authority.directory, monitor=True)
    # As much as the bridge takes from a client at once; the last byte is what runs the last.
    commands = b"print 1\r" * 400 + b"print 100499" + b"\r".rjust(4096 - 3200 - 12)
    assert len(commands) == 4096
    settings = (ca(authority), 'input = "direct"')
    with run(user, directory, vm.url, *settings) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        client.type(commands)
        client.read_until(b"\n%#x\r" % 100499)


def test_leaving_a_flooding_guest_over_wss_lets_the_next_client_in(
    user: User,
    directory: Path,
    boot: Boot,
    authority: Authority,
    repetitions: int,
) -> None:
    vm = boot("flood", tls=authority.directory)
    for _ in range(repetitions):
        with run(user, directory, vm.url, ca(authority)) as bridge:
            with Client(bridge.raw) as client:
                client.read_exactly(9)
            assert bridge.stop() == 0
        eventually(lambda: not vm.connected(), limit=2)


def test_leaving_a_deaf_guest_over_wss_lets_the_next_client_in(
    user: User, directory: Path, boot: Boot, authority: Authority
) -> None:
    """With unread input a mere end of the TCP stream would lock it; close_notify does not."""
    vm = boot("deaf", tls=authority.directory)
    with run(user, directory, vm.url, ca(authority)) as bridge:
        bridge.wait_message("vm: ONLINE")
        with Client(bridge.raw) as client:
            client.type(b"is anybody there?\r")
            client.socket.shutdown(socket.SHUT_WR)
        assert bridge.stop() == 0
    eventually(lambda: not vm.connected(), limit=2)


def test_busy_then_served_over_wss(
    user: User, directory: Path, boot: Boot, authority: Authority
) -> None:
    """The TLS hello itself stays unanswered while another client has the console."""
    vm = boot("echofifo", tls=authority.directory)
    with socket.create_connection(("127.0.0.1", vm.port)) as holder:
        with run(user, directory, vm.url, ca(authority)) as bridge, Client(bridge.raw) as client:
            bridge.wait_message("vm: BUSY: another client has this console")
            holder.close()
            bridge.wait_message("vm: ONLINE")
            client.reach_echo()


def test_a_vm_that_dies_over_wss_is_reached_again(
    user: User, directory: Path, vm: Qemu, authority: Authority
) -> None:
    with run(user, directory, vm.url, ca(authority)) as bridge, Client(bridge.raw) as client:
        bridge.wait_message("vm: ONLINE")
        client.reach_echo()
        vm.kill()
        seen = bridge.wait_message("vm: WAITING: the connection was closed")
        vm.restart()
        bridge.wait_message("vm: ONLINE", after=seen, limit=10)


def test_a_certificate_of_an_unknown_authority_is_refused_and_named(
    user: User, directory: Path, vm: Qemu, authority: Authority
) -> None:
    """By the system's authorities, and by another of the user's; the pin in the message does."""
    with run(user, directory, vm.url) as bridge:
        bridge.wait_message("vm: FAILED: certificate authority: .*trustme.* does not know")
        (message,) = bridge.messages
    other = Authority(user, directory / "other")
    with run(user, directory, vm.url, ca(other)) as bridge:
        bridge.wait_message(f"vm: FAILED: certificate authority: .*{other.ca}")
    pin = re.search(r"pin = ([0-9a-f]{64})", message)
    assert pin is not None
    with run(user, directory, vm.url, f'pin = "{pin[1]}"') as bridge:
        bridge.wait_message("vm: ONLINE")


def test_a_certificate_for_another_name_is_refused_and_its_names_told(
    user: User, directory: Path, boot: Boot
) -> None:
    authority = Authority(user, directory / "authority", "vmhost.example.org", "192.0.2.7")
    vm = boot("deaf", tls=authority.directory)
    with run(user, directory, vm.url, ca(authority)) as bridge:
        bridge.wait_message(
            "vm: FAILED: certificate name: it is for vmhost.example.org, 192.0.2.7, not for"
            " 127.0.0.1; "
        )
        assert len(bridge.messages) == 1
    eventually(lambda: not vm.connected())  # the second look left it, too
    # With ca and pin both must hold; a pin alone is about the certificate, whatever its name.
    with run(user, directory, vm.url, ca(authority), f'pin = "{pinned(authority)}"') as bridge:
        bridge.wait_message("vm: FAILED: certificate name")
    with run(user, directory, vm.url, f'pin = "{pinned(authority)}"') as bridge:
        bridge.wait_message("vm: ONLINE")


def test_an_expired_certificate_is_refused_and_its_dates_told(
    user: User, directory: Path, boot: Boot
) -> None:
    authority = Authority(user, directory / "authority", expired=True)
    vm = boot("deaf", tls=authority.directory)
    with run(user, directory, vm.url, ca(authority)) as bridge:
        bridge.wait_message(
            "vm: FAILED: certificate time: certificate has expired; the server's is valid"
            " from 2020-01-01 00:00 to 2021-01-01 00:00 UTC"
        )


def test_a_wrong_pin_is_refused_and_the_right_one_told(
    user: User, directory: Path, vm: Qemu, authority: Authority
) -> None:
    wrong = ":".join(["AB"] * 32)
    with run(user, directory, vm.url, ca(authority), f'pin = "{wrong}"') as bridge:
        bridge.wait_message(f"vm: FAILED: certificate pin: .*SHA-256 {pinned(authority)}")
        # Nobody attaches, nobody else listens: it is not tried again.
        with Client(bridge.raw):
            eventually(lambda: not vm.connected())
        assert len(bridge.messages) == 1


def test_a_client_certificate_is_asked_for_by_name(
    user: User, directory: Path, boot: Boot, authority: Authority
) -> None:
    """With TLS 1.3 QEMU completes the handshake and then closes without a word."""
    vm = boot("echofifo", tls=authority.directory, verify_peer=True)
    with run(user, directory, vm.url, ca(authority)) as bridge:
        bridge.wait_message("vm: FAILED: client certificate: .*none was sent: set cert and key")
    cert, key = Authority(user, directory / "other").client("stranger")
    with run(user, directory, vm.url, ca(authority), f'cert = "{cert}"', f'key = "{key}"') as b:
        b.wait_message(f"vm: FAILED: client certificate: .*{cert} was sent")
    cert, key = authority.client("friend")
    with run(user, directory, vm.url, ca(authority), f'cert = "{cert}"', f'key = "{key}"') as b:
        b.wait_message("vm: ONLINE")
        with Client(b.raw) as client:
            client.reach_echo()


def test_a_refused_client_certificate_is_used_when_renewed(
    user: User, directory: Path, boot: Boot, authority: Authority
) -> None:
    """Files are read for each connection, and this one is tried again by the clock."""
    vm = boot("deaf", tls=authority.directory, verify_peer=True)
    other = Authority(user, directory / "other")
    cert, key = other.client("me")
    with run(user, directory, vm.url, ca(authority), f'cert = "{cert}"', f'key = "{key}"') as b:
        seen = b.wait_message("vm: FAILED: client certificate")
        other.write("me-key.pem", b"")
        seen = b.wait_message("vm: FAILED: key: .*me-key.pem: holds no private key", after=seen)
        for new, old in zip(authority.client("friend"), (cert, key), strict=True):
            other.write(old.name, new.read_bytes())
        b.wait_message("vm: ONLINE", after=seen)


@contextmanager
def tls_server(
    authority: Authority,
    answer: Callable[[ssl.SSLSocket], None],
    prepare: Callable[[ssl.SSLContext], None] = lambda _: None,
) -> Iterator[int]:
    """A server of one connection after the other; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(
        authority.directory / "server-cert.pem", authority.directory / "server-key.pem"
    )
    prepare(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.settimeout(30)
                try:
                    with context.wrap_socket(connection, server_side=True) as tls:
                        answer(tls)
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_alert_about_the_client_certificate_is_understood(
    user: User, directory: Path, authority: Authority, version: ssl.TLSVersion
) -> None:
    """Other servers say what QEMU only shows by closing."""

    def prepare(context: ssl.SSLContext) -> None:
        context.maximum_version = version
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.ca)

    cert, key = Authority(user, directory / "other").client("stranger")
    with tls_server(authority, lambda tls: None, prepare) as port:
        url = f"wss://127.0.0.1:{port}"
        own = (f'cert = "{cert}"', f'key = "{key}"')
        with run(user, directory, url, ca(authority), *own) as bridge:
            bridge.wait_message("vm: FAILED: client certificate: the server refused: .*unknown ca")
        with run(user, directory, url, ca(authority)) as bridge:
            bridge.wait_message("vm: FAILED: .*client certificate")


def test_a_server_that_goes_during_an_answer_is_waited_for(
    user: User, directory: Path, authority: Authority
) -> None:
    """An answer has begun, so the certificate cannot be it."""

    def answer(tls: ssl.SSLSocket) -> None:
        tls.recv(4096)
        tls.sendall(b"HTTP/1.1 503 Later\r\n\r\n")

    with tls_server(authority, answer) as port:
        with run(user, directory, f"wss://127.0.0.1:{port}", ca(authority)) as bridge:
            bridge.wait_message("vm: WAITING: answered: HTTP/1.1 503 Later")


def test_a_console_without_tls_is_recognised(user: User, directory: Path, boot: Boot) -> None:
    """QEMU's websocket waits for the end of a request; a login prompt answers at once."""
    vm = boot("deaf")
    with run(user, directory, f"wss://127.0.0.1:{vm.port}") as bridge:
        bridge.wait_message("vm: FAILED: connected, but no answer in 5 s: no TLS server.*ws://")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with run(user, directory, f"wss://127.0.0.1:{port}") as bridge:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"login: \x1b[2J")
                bridge.wait_message(
                    r"vm: FAILED: what answers .*not speak TLS .*'login: \\x1b.*ws://"
                )


def test_files_that_do_not_do_are_found_by_check(
    user: User, directory: Path, authority: Authority
) -> None:
    cert, key = authority.client("me")
    token = authority.write("token", b"hunter2\n")
    good = [
        'url = "wss://h:1"',
        ca(authority),
        f'cert = "{cert}"',
        f'key = "{key}"',
        f'headers = {{ Authorization = {{ file = "{token}" }}, X-Later = {{ credential = "c" }} }}',
    ]

    def check(*lines: str) -> tuple[int, str]:
        config = directory / "config.toml"
        config.write_text("\n".join(["[consoles.vm]", *lines]))
        config.chmod(0o644)
        done = user.run(["ttybridge", "check", config])
        return done.returncode, done.stdout + done.stderr

    directory.chmod(0o755)
    assert check(*good)[0] == 0
    key.chmod(0o640)
    assert check(*good)[0] == 78
    assert re.search(
        r"consoles.vm.key: \S+ others may read it \(mode 0640\); chmod 600", check(*good)[1]
    )
    key.chmod(0o600)
    token.chmod(0o644)
    assert "consoles.vm.headers.Authorization: " in check(*good)[1]
    authority.write("token", b"hunter2\nand more\n")
    assert "not one line of printable ASCII" in check(*good)[1]
    assert "hunter2" not in check(*good)[1]
    token.unlink()
    assert "headers.Authorization: " in check(*good)[1]
    assert "no such file" in check(*good)[1]
    strange, strange_key = authority.client("other")
    for lines, wrong in (
        ([f'ca = "{key}"'], "ca: .*: holds no certificate in PEM form"),
        ([f'ca = "{directory}"'], "ca: .*: is a directory"),
        ([f'cert = "{cert}"', f'key = "{strange_key}"'], "key: .* is not that of the certificate"),
        ([f'cert = "{strange}"'], "cert: .*: holds no private key in PEM form"),
    ):
        code, message = check('url = "wss://h:1"', *lines)
        assert code == 78
        assert re.search(f"consoles.vm.{wrong}", message), message


def test_headers_reach_the_server_and_nobody_else(
    user: User, directory: Path, authority: Authority
) -> None:
    token = authority.write("token", b"Bearer hunter2\n")
    requests: list[bytes] = []

    def answer(tls: ssl.SSLSocket) -> None:
        requests.append(tls.recv(4096))
        tls.sendall(b"HTTP/1.1 403 No\r\n\r\n")

    headers = (
        f'headers = {{ Authorization = {{ file = "{token}" }}, X-Plain = "swordfish",'
        ' Cookie = { credential = "cookie" } }'
    )
    with tls_server(authority, answer) as port:
        url = f"wss://127.0.0.1:{port}"
        with run(user, directory, url, ca(authority), headers) as bridge:
            bridge.wait_message("vm: FAILED: headers.Cookie: cookie: no such credential")
        assert requests == []
        (directory / "cookie").write_text("id=sesame\n")
        user.own(directory / "cookie")
        user.environment["CREDENTIALS_DIRECTORY"] = str(directory)
        try:
            with run(user, directory, url, ca(authority), headers) as bridge:
                bridge.wait_message("vm: FAILED: refused: HTTP/1.1 403 No")
                command = Path(f"/proc/{bridge.process.pid}/cmdline").read_bytes()
                seen = "".join(bridge.messages) + str(bridge.places) + command.decode()
        finally:
            del user.environment["CREDENTIALS_DIRECTORY"]
    head = requests[0].split(b"\r\n")
    assert {b"Authorization: Bearer hunter2", b"X-Plain: swordfish", b"Cookie: id=sesame"} < set(
        head
    )
    assert not re.search("hunter2|swordfish|sesame", seen)


def test_a_certificate_is_read_for_its_names_and_dates(user: User, directory: Path) -> None:
    authority = Authority(
        user, directory / "a", "*.example.org", "192.0.2.7", "2001:db8::1", expired=True
    )
    pem = authority.server.cert_chain_pems[0].bytes().decode()
    certificate = Certificate.parse(ssl.PEM_cert_to_DER_cert(pem))
    assert certificate.names == ("*.example.org", "192.0.2.7", "2001:db8::1")
    assert (certificate.since, certificate.until) == (LONG_AGO, AGO)
    assert certificate.sha256 == pinned(authority)
    own = Certificate.parse(ssl.PEM_cert_to_DER_cert(authority.ca.read_text()))
    assert own.until.year >= 2030


CERTIFICATE = ssl.PEM_cert_to_DER_cert(
    trustme.CA().issue_cert("h.example.org", "192.0.2.7").cert_chain_pems[0].bytes().decode()
)


@given(st.integers(0, len(CERTIFICATE)), st.integers(0, 20), st.binary(max_size=20), st.booleans())
def test_damaged_bytes_are_still_a_certificate_or_none(
    at: int, removed: int, put: bytes, cut: bool
) -> None:
    damaged = CERTIFICATE[:at] + put + (b"" if cut else CERTIFICATE[at + removed :])
    try:
        certificate = Certificate.parse(damaged)
    except ValueError:
        return
    assert "".join(certificate.names).isprintable()
    assert certificate.issuer.isprintable()
