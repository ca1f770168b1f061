"""A PTY behaves as a serial line, whatever its clients do to it.

Each test is one trap of Linux or of a tool.  The clients are scripts that run as an
ordinary user on the PTY of a real service (root would not even notice EBUSY).
"""

import os
import re
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.user import User
from tests.support.waiting import eventually

PROMPT = b"demo$ "

PRELUDE = """
import fcntl, os, select, struct, sys, termios, tty
link = sys.argv[1]
def open_link():
    return os.open(link, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
def read_until(fd, wanted, limit=20):
    seen = b""
    while wanted not in seen:
        assert select.select([fd], [], [], limit)[0], seen
        seen += os.read(fd, 4096)
    return seen
def say(word):
    print(word, flush=True)
def wait_told():
    sys.stdin.readline()
"""


# Says what arrives until nothing does for half a second.
READ_ALL = """
fd = open_link()
seen = b""
while select.select([fd], [], [], 0.5)[0]:
    seen += os.read(fd, 4096)
say(seen)
"""


class Script:
    """A client of the PTY, in step with the test: it says words, the test tells it to go on."""

    def __init__(self, user: User, bridge: Bridge, code: str) -> None:
        self.process = user.popen(
            ["python", "-c", PRELUDE + textwrap.dedent(code), bridge.link],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.wait(30) == 0
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def raw(bridge: Bridge) -> Iterator[Client]:
    """Somebody else on the console, who sees all output and can cause some."""
    with Client(bridge.raw) as client:
        client.sync()
        yield client


def command(client: Client, line: str) -> bytes:
    client.type(line.encode() + b"\r")
    client.read_until(b"\n")
    return client.read_until(PROMPT)


def test_is_private_raw_and_silent_from_birth(user: User, bridge: Bridge) -> None:
    assert bridge.link.stat().st_mode & 0o777 == 0o600
    settings = user.run(["stty", "-F", bridge.link, "-a"]).stdout
    for off in ("-echo", "-icanon", "-isig", "-opost", "-ixon", "-icrnl"):
        assert re.search(rf"(^|\s){off}\b", settings), settings
    assert "cs8" in settings


def test_nothing_is_kept_for_a_client_who_was_not_there(
    user: User, bridge: Bridge, raw: Client
) -> None:
    """All that it gets is the replay, once: 16 KiB of the end, from the start of a line."""
    past = command(raw, "flood 2000")[-16 * 1024 :]
    client = Script(user, bridge, READ_ALL)
    assert client.heard() == repr(past[past.index(b"\n") + 1 :])
    client.end()


def test_nobody_attached_costs_nothing(user: User, bridge: Bridge, raw: Client) -> None:
    """Neither before the first client nor after the last (a hung-up master polls for ever)."""

    def wakeups() -> int:
        status = Path(f"/proc/{bridge.process.pid}/status").read_text()
        return int(re.findall(r"voluntary_ctxt_switches:\s+(\d+)", status)[0])

    for _ in range(2):
        before = wakeups(), bridge.cpu_seconds()
        for _ in range(10):  # some time passes
            user.run(["ttybridge", "path", "demo", "--runtime-dir", bridge.directory])
        after = wakeups(), bridge.cpu_seconds()
        assert after[0] - before[0] < 100
        assert after[1] - before[1] < 0.1
        user.run(["sh", "-c", f"printf '\\r' > {bridge.link}"])
        raw.read_until(PROMPT)


def test_output_begins_after_the_tools_flush(user: User, bridge: Bridge, raw: Client) -> None:
    """Every tool flushes right after open: what had been written by then would be lost."""
    client = Script(
        user,
        bridge,
        """
        fd = open_link()
        say("open")
        wait_told()
        for _ in range(3):
            termios.tcflush(fd, termios.TCIOFLUSH)
            select.select([], [], [], 0.003)
        read_until(fd, b"early bird\\r")
        say("seen")
        """,
    )
    assert client.heard() == "open"
    raw.type(b"echo early bird\r")
    client.go_on()
    assert client.heard() == "seen"
    client.end()


def test_what_one_client_left_unread_is_not_shown_to_the_next(
    user: User, bridge: Bridge, raw: Client
) -> None:
    sleeper = Script(
        user,
        bridge,
        """
        fd = open_link()
        say("open")
        wait_told()
        """,
    )
    sleeper.heard()
    command(raw, "flood 3000")
    sleeper.go_on()
    sleeper.end()
    client = Script(user, bridge, READ_ALL)
    assert client.heard().count("00003000") == 1
    client.end()


def test_stty_sane_is_healed(user: User, bridge: Bridge, raw: Client) -> None:
    """ECHO on would type all the guest's output back into the guest."""
    client = Script(
        user,
        bridge,
        """
        fd = open_link()
        say("open")
        wait_told()
        read_until(fd, b"not typed back\\r\\ndemo$ ")
        say(termios.tcgetattr(fd)[3] & (termios.ECHO | termios.ICANON | termios.ISIG))
        """,
    )
    client.heard()
    # It may be healed so fast that stty, which looks again, complains.
    complaint = user.run(["stty", "-F", bridge.link, "sane"]).stderr
    assert complaint == "" or "unable to perform all requested operations" in complaint
    assert command(raw, "echo not typed back") == b"not typed back\r\n" + PROMPT
    # Were output echoed, the guest would now have lines of its own to complain about.
    assert command(raw, "echo still clean") == b"still clean\r\n" + PROMPT
    client.go_on()
    assert client.heard() == "0"
    client.end()


def test_output_cannot_stop_the_keyboard(user: User, bridge: Bridge, raw: Client) -> None:
    """screen sets IXON, with which a ^S among the guest's output would stop all input."""
    client = Script(
        user,
        bridge,
        """
        fd = open_link()
        settings = termios.tcgetattr(fd)
        settings[0] |= termios.IXON
        termios.tcsetattr(fd, termios.TCSANOW, settings)
        say("set")
        wait_told()
        read_until(fd, b"\\x11\\x12\\x13\\x14")
        os.write(fd, b"echo typed after all\\r")
        read_until(fd, b"typed after all\\r\\n")
        """,
    )
    client.heard()
    command(raw, "bytes")
    client.go_on()
    raw.read_until(b"\ntyped after all")
    client.end()


def test_exclusive_use_ends_with_its_client(user: User, bridge: Bridge, raw: Client) -> None:
    """TIOCEXCL, which screen sets, outlives screen on a PTY: the PTY is replaced."""
    for word in ("one", "two"):
        client = Script(
            user,
            bridge,
            f"""
            fd = None
            import time
            deadline = time.monotonic() + 20
            while fd is None:
                try:
                    fd = open_link()
                except OSError as error:
                    assert error.errno == 16 and time.monotonic() < deadline, error
            fcntl.ioctl(fd, termios.TIOCEXCL)
            try:
                open_link()
            except OSError as error:
                assert error.errno == 16, error
                say("busy")
            select.select([], [], [], 0.1)
            os.write(fd, b"echo {word}\\r")
            read_until(fd, b"{word}\\r\\ndemo$ ")
            """,
        )
        assert client.heard() == "busy"
        client.end()
        raw.read_until(b"\n" + word.encode() + b"\r\n" + PROMPT)
    # Nobody is shut out for longer than the moment it takes.
    eventually(lambda: user.run(["stty", "-F", bridge.link]).returncode == 0)


def test_an_exclusive_visit_that_is_over_before_it_is_noticed(user: User, bridge: Bridge) -> None:
    """After which nobody could open the PTY, so that nothing would ever be noticed again."""
    client = Script(
        user,
        bridge,
        """
        import time
        for _ in range(50):
            deadline = time.monotonic() + 20
            while True:
                try:
                    fd = open_link()
                    break
                except OSError:  # EBUSY; or the link is being replaced
                    assert time.monotonic() < deadline
                    select.select([], [], [], 0.001)
            fcntl.ioctl(fd, termios.TIOCEXCL)
            os.close(fd)
        """,
    )
    client.end()
    eventually(lambda: user.run(["stty", "-F", bridge.link]).returncode == 0)


def test_one_that_a_login_has_taken_for_itself_is_replaced(user: User, bridge: Bridge) -> None:
    if not user.other:
        pytest.skip("only root can give a terminal away")
    before = bridge.status()["pty"]
    slave = os.open(bridge.link, os.O_RDWR | os.O_NOCTTY)
    os.fchown(slave, 0, 0)  # as login(1) does
    os.fchmod(slave, 0o600)
    os.close(slave)
    eventually(lambda: user.run(["stty", "-F", bridge.link]).returncode == 0)
    assert bridge.status()["pty"] == before  # the number is free again


def test_a_paste_that_is_still_being_typed_shuts_nobody_out(user: User, directory: Path) -> None:
    """Nor does what its client left unread, and how it left the PTY, reach the next one."""
    with Fake("deaf") as vm, Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        bridge.wait_message("vm: ONLINE")
        client = Script(
            user,
            bridge,
            """
            fd = open_link()
            fcntl.ioctl(fd, termios.TIOCEXCL)
            typed = os.write(fd, b"x" * 3000)
            try:
                while typed < 12000:
                    select.select([], [fd], [], 10)
                    typed += os.write(fd, b"x" * 1000)
            except BlockingIOError:
                pass
            say(typed)
            """,
        )
        typed = int(client.heard())
        client.end()
        eventually(lambda: user.run(["stty", "-F", bridge.link]).returncode == 0, limit=5)
        console = bridge.status()
        assert console["attachments"] == []
        assert console["input"]["waiting"] + console["bytes"]["to_guest"] == typed


def test_a_redirection_types(user: User, bridge: Bridge, raw: Client) -> None:
    """`echo reboot > link` opens, writes and closes before anybody can have looked."""
    for number in range(5):
        user.run(["sh", "-c", f"printf 'echo from-{number}\\r' > {bridge.link}"])
        raw.read_until(b"\nfrom-%d\r\n" % number)


def test_a_stopped_client_harms_nobody(user: User, bridge: Bridge, raw: Client) -> None:
    client = Script(
        user,
        bridge,
        """
        fd = open_link()
        say("open")
        wait_told()
        read_until(fd, b"that is all\\r\\ndemo$ ")
        """,
    )
    client.heard()
    client.process.send_signal(signal.SIGSTOP)
    flood = command(raw, "flood 5000")
    assert flood == b"".join(b"%08d\r\n" % n for n in range(1, 5001)) + PROMPT
    command(raw, "echo that is all")
    client.process.send_signal(signal.SIGCONT)
    client.go_on()
    client.end()


def test_who_comes_amid_the_paste_of_one_who_has_left_sees_its_end(
    user: User, bridge: Bridge, raw: Client
) -> None:
    """`cat file > link` closes long before its last byte is taken."""
    (user.home / "file").write_text(("y" * 999 + "\n") * 8 + "echo last of all\n")
    user.own(user.home / "file")
    user.run(["sh", "-c", f"cat file > {bridge.link}"])
    client = Script(
        user,
        bridge,
        """
        fd = open_link()
        say("open")
        read_until(fd, b"last of all\\r\\nlast of all\\r\\n")
        """,
    )
    client.heard()
    raw.read_until(b"\r\nlast of all\r\n")
    client.end()


def test_a_clients_suspended_output_is_not_the_next_ones(
    user: User, bridge: Bridge, raw: Client
) -> None:
    client = Script(user, bridge, "fd = open_link(); termios.tcflow(fd, termios.TCOOFF)")
    client.end()
    eventually(lambda: "busy" not in user.run(["stty", "-F", bridge.link]).stderr)
    user.run(["sh", "-c", f"printf 'echo flows again\\r' > {bridge.link}"])
    raw.read_until(b"\nflows again\r\n")


@pytest.mark.parametrize("noticed", [True, False])
def test_a_client_that_polls_leaves_reads_that_wait(
    user: User, bridge: Bridge, raw: Client, *, noticed: bool
) -> None:
    """pyserial has reads return nothing at once, which `cat` takes for the end."""
    if not noticed:  # it has come and gone before anybody looks
        bridge.process.send_signal(signal.SIGSTOP)
    client = Script(
        user,
        bridge,
        """
        fd = open_link()
        settings = termios.tcgetattr(fd)
        settings[6][termios.VMIN] = 0
        termios.tcsetattr(fd, termios.TCSANOW, settings)
        say("set")
        wait_told()
        """,
    )
    assert client.heard() == "set"
    if noticed:
        bridge.wait_attached(2)
    client.go_on()
    client.end()
    bridge.process.send_signal(signal.SIGCONT)
    # Who opens it in the same moment shares the session.
    eventually(lambda: len(bridge.status()["attachments"]) == 1)
    bridge.status()
    cat = user.popen(["cat", bridge.link], stdout=subprocess.PIPE)
    assert cat.stdout is not None
    try:
        bridge.wait_attached(2)
        command(raw, "echo for cat")
        while (line := cat.stdout.readline()) != b"for cat\r\n":
            assert line
    finally:
        cat.kill()
        cat.communicate()


SETTINGS = """
fd = open_link()
size = fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))
say((termios.tcgetattr(fd), struct.unpack("=4H", size)))
"""

# What a client may leave: with a speed of no name (pyserial's 250000), with none (`stty 0`).
LEFTOVERS = {
    "termios": """
        new[:4] = [termios.IXON | termios.ICRNL, termios.OPOST, new[2], termios.ECHO]
        new[2] |= termios.CRTSCTS | termios.CSTOPB | termios.PARENB | termios.PARODD
        new[2] &= ~(termios.CLOCAL | termios.HUPCL)
        new[6][termios.VMIN], new[6][termios.VTIME] = 0, 7
        termios.tcsetattr(fd, termios.TCSANOW, new)
    """,
    "no speed": """
        new[4] = new[5] = termios.B0
        termios.tcsetattr(fd, termios.TCSANOW, new)
    """,
    "odd speed": """
        TCGETS2, TCSETS2, BOTHER, CBAUD = 0x802C542A, 0x402C542B, 0o010000, 0o010017
        new = bytearray(fcntl.ioctl(fd, TCGETS2, bytes(44)))
        cflag = struct.unpack_from("=I", new, 8)[0] & ~CBAUD | BOTHER
        struct.pack_into("=I", new, 8, cflag)
        struct.pack_into("=2I", new, 36, 250000, 250000)
        fcntl.ioctl(fd, TCSETS2, bytes(new))
    """,
    "size": 'fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("=4H", 24, 80, 0, 0))',
}


@pytest.mark.parametrize("left", LEFTOVERS)
def test_settings_end_with_their_client(user: User, bridge: Bridge, raw: Client, left: str) -> None:
    """A client that is killed restores nothing; the next one meets a PTY as from its birth."""

    def seen() -> str:
        client = Script(user, bridge, SETTINGS)
        told = client.heard()
        client.end()
        return told

    birth = seen()
    body = textwrap.dedent(LEFTOVERS[left])
    script = f"fd = open_link()\nnew = termios.tcgetattr(fd)\n{body}\nsay('set')\nwait_told()"
    client = Script(user, bridge, script)
    assert client.heard() == "set"
    client.process.kill()
    client.process.communicate()
    # Who opens it at the same moment may be before us.
    eventually(lambda: seen() == birth)
    command(raw, "echo it lives")


def test_the_last_keys_of_a_client_who_leaves_are_typed(
    user: User, bridge: Bridge, raw: Client
) -> None:
    """More than fits the input queue, written in one go by one who leaves at once."""
    text = "x" * 3000
    user.run(["sh", "-c", f"printf 'echo {text}y\\recho {text}z\\r' > {bridge.link}"])
    raw.read_until(b"\n" + text.encode() + b"z\r\n")
