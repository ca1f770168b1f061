"""A console as a pseudo-terminal: what ``screen``, ``minicom``, ``picocom`` and ``tio`` open.

A PTY pretends to be a serial line badly unless it is nursed.  Each rule here answers one
behaviour of Linux (drivers/tty/pty.c, n_tty.c) or of a tool:

- It is raw before anybody can open it, and made raw again whenever a client changes that:
  with ECHO on, all guest output would be typed back into the guest; screen's IXON would
  let a ^S in the output freeze the keyboard.  Packet mode (tty_ioctl(4), TIOCPKT) tells.
- Nobody attached: nothing is written, because the kernel would keep it for the next
  client, and nothing waited for, because the master polls as hung up for ever.
  inotify on the slave says when to look again; POLLHUP is the truth.
- All tools flush shortly after they open, so output begins when that is over.
- After each session the slave's buffer is emptied, which would be shown to the next client,
  and the settings are those of its birth: none of the client's may trouble the next one.
- screen sets TIOCEXCL, which the kernel keeps while the master is open and which locks
  out everybody but root: such a PTY is replaced.
- No slave is ever kept open, or its HUP would be lost; O_NOCTTY always, or the PTY could
  become the service's controlling terminal.
"""

import errno
import fcntl
import os
import select
import struct
import termios
from collections.abc import Callable

import trio

from bridge.base.handover import NOBODY, Bag, Keeper, Record, Role
from bridge.console.attach import Attachment
from bridge.console.console import Console
from bridge.console.manners import Manners
from bridge.kernel.presence import Presence
from bridge.kernel.runtime import Link

# asm-generic/termbits.h and ioctls.h: what the termios module has no names for.
_EXTPROC = 0o200000  # no echo and no editing by the kernel; every change is reported
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430

_IFLAG, _OFLAG, _CFLAG, _LFLAG = range(4)
_CC = 6
_BIRTH_CFLAG = termios.CREAD | termios.CLOCAL | termios.HUPCL | termios.CS8 | termios.B38400
_OPEN_SLAVE = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC

# Output to a fresh client begins when its last flush or setting is QUIET ago; the tools'
# came within 3 ms of their open.
QUIET = 0.030
QUIET_LIMIT = 0.300


class Pty:
    """A PTY's master: the channel of whoever opens the slave."""

    def __init__(self, master: int) -> None:
        self.fd = master
        number = struct.unpack("=I", fcntl.ioctl(master, _TIOCGPTN, b"\0" * 4))[0]
        self.path = f"/dev/pts/{number}"
        self._poller = select.poll()
        self._poller.register(master, select.POLLIN | select.POLLPRI)
        self.last_control = -QUIET
        """When a client last flushed or changed settings, by trio's clock."""

    @classmethod
    def create(cls) -> "Pty":
        """Make a PTY that is raw and private from birth; nobody can open it before ``unlock``."""
        # Not os.openpty: it opens the slave while it is still cooked and echoing.
        master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(master, termios.TIOCPKT, struct.pack("=i", 1))
            pty = cls(master)
            pty.reset()
            # devpts is often mounted mode=620,gid=tty; group tty could type into the guest.
            os.chmod(pty.path, 0o600)
        except BaseException:
            os.close(master)
            raise
        return pty

    def unlock(self) -> None:
        """Let clients open one that was created.  From now on it must be watched: they may be quick."""
        fcntl.ioctl(self.fd, _TIOCSPTLCK, struct.pack("=i", 0))
        os.close(os.open(self.path, _OPEN_SLAVE))  # from now on POLLHUP means nobody

    def close(self) -> None:
        """Idempotent: closed is a descriptor of -1."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _poll(self) -> int:
        """The master's poll events now."""
        events = self._poller.poll(0)
        return events[0][1] if events else 0

    def hung_up(self) -> bool:
        """Nobody has the slave open now."""
        return bool(self._poll() & select.POLLHUP)

    @property
    def attached(self) -> bool:
        """Is a client there, or has one left something to read (``echo reboot > link``)?"""
        while (events := self._poll()) & select.POLLPRI:
            # A control byte, of our own scrub or settings too, polls like data; a read of
            # one byte takes it and never any data.
            self.read(0)
        return not events & select.POLLHUP or bool(events & select.POLLIN)

    def read(self, limit: int) -> bytes | None:
        try:
            packet = os.read(self.fd, limit + 1)
        except OSError as error:
            if error.errno == errno.EIO:  # the last client has closed, all it wrote is read
                return b""
            raise
        # In packet mode a byte of zero precedes data, and any other stands alone.
        if packet[:1] == b"\0":
            return packet[1:] or None
        self.last_control = trio.current_time()
        self._make_raw()
        return None

    def write(self, data: bytes) -> int:
        events = self._poll()
        # The kernel would keep some of it for the next client, and then be full; and a
        # master that is hung up polls as writable for ever.
        if events & select.POLLHUP:
            raise OSError(errno.EIO, "nobody has the PTY open")
        # The control byte that tells of an ECHO switched on may be unread yet.
        if events & select.POLLPRI:
            self._make_raw()
        return os.write(self.fd, data)

    def gone(self) -> bool:
        """A PTY's input ends only with its client."""
        return True

    def scrub(self) -> bool:
        """Remove what the last client left behind; False if the PTY must be replaced."""
        try:
            # The master can flush only a part of what the slave would read.
            slave = os.open(self.path, _OPEN_SLAVE)
        except OSError as error:
            # TIOCEXCL survives, and TIOCNXCL on the master does not help; a login has given
            # the slave to somebody else.  Otherwise the next client is there already, or
            # (EMFILE) what was left must stay.
            return error.errno not in {errno.EBUSY, errno.EACCES} or self.attached
        try:
            termios.tcflush(slave, termios.TCIFLUSH)
            termios.tcflow(slave, termios.TCOON)  # a client's TCOOFF outlives it
        finally:
            os.close(slave)
        if self.hung_up():
            self.reset()
        else:  # the next client's settings are its own
            self._make_raw()
        return True

    def reset(self) -> None:
        """Give it the settings, and the size, of a PTY that nobody has had yet."""
        settings = termios.tcgetattr(self.fd)
        settings[:_CC] = [0, 0, _BIRTH_CFLAG, _EXTPROC, termios.B38400, termios.B38400]
        # A client that polls (pyserial) would leave to the next one (cat) reads of nothing,
        # which are the end of a file.
        settings[_CC][termios.VMIN], settings[_CC][termios.VTIME] = 1, 0
        termios.tcsetattr(self.fd, termios.TCSANOW, settings)
        # A serial line has none; another terminal's would mislead whoever asks.
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("=4H", 0, 0, 0, 0))

    def _make_raw(self) -> None:
        """Undo what would change bytes; speed, size and stop bits are the client's fancy."""
        settings = termios.tcgetattr(self.fd)  # the slave's, by way of the master
        if settings[_IFLAG] or settings[_OFLAG] or settings[_LFLAG] != _EXTPROC:
            settings[_IFLAG], settings[_OFLAG], settings[_LFLAG] = 0, 0, _EXTPROC
            settings[_CFLAG] |= termios.CREAD | termios.CLOCAL | termios.CS8
            termios.tcsetattr(self.fd, termios.TCSANOW, settings)


class PtyEndpoint:
    """A console's PTY for as long as the service lives, though it may be replaced.

    Keeps ``link`` pointing at it, and removes the link before the PTY's number becomes
    free for somebody else's terminal; ``warn`` is told what is amiss.  ``master`` is that of
    a PTY which another process has handed over.
    """

    def __init__(
        self,
        console: Console,
        presence: Presence,
        link: Link,
        manners: Manners,
        warn: Callable[[str], None],
        master: int | None = None,
        keeper: Keeper = NOBODY,
    ) -> None:
        self._console = console
        self._keeper = keeper
        self.manners = manners
        self._presence = presence
        self._link = link
        self._warn = warn
        self._stirred = trio.Event()
        self._attachment: Attachment | None = None  # while somebody has it open
        if master is None:
            self._install(Pty.create(), new=True)
        else:
            self._install(Pty(master))

    @property
    def address(self) -> str:
        """``/dev/pts/N``; it may change."""
        return self._pty.path

    def close(self) -> None:
        self._link.remove()
        self._let_go()

    def state(self, bag: Bag) -> Record | None:
        """None at a moment at which there is no PTY."""
        if self._pty.fd < 0:
            return None
        attachment = self._attachment
        return {
            "fd": bag.put(self._pty.fd),
            "attachment": attachment.state(bag) if attachment is not None else None,
        }

    def restore(self, record: Record, bag: Bag) -> None:
        """Go on with a client who has the PTY open; its master was given to the constructor."""
        if record["attachment"] is not None:
            self._attachment = Attachment.restore(
                self._console, self._pty, record["attachment"], bag
            )

    async def run(self) -> None:
        """Serve one session after the other."""
        while True:
            if self._attachment is None:
                await self._wait_attached()
            await self._session()
            await self._clean()

    def _install(self, pty: Pty, *, new: bool = False) -> None:
        try:
            self._watch = self._presence.watch(pty.path, self._stir)
            if new:
                pty.unlock()
            self._link.point_to(pty.path)
        except OSError:
            pty.close()
            raise
        self._pty = pty
        self._keeper.keep(pty.fd, Role.PTY)

    def _let_go(self) -> None:
        if self._pty.fd >= 0:
            self._keeper.release(self._pty.fd)
            self._pty.close()

    def _stir(self) -> None:
        self._stirred.set()

    async def _wait_attached(self) -> None:
        while not self._pty.attached:
            await self._wait_stirred()
            if not self._pty.attached:  # one has come and gone unnoticed
                await self._clean()

    async def _clean(self) -> None:
        """Leave nothing of one client for the next, if need be by a new PTY."""
        clean = self._pty.scrub()
        self._presence.deliver(but=self._watch)  # its own open and close are nobody's visit
        if not clean:
            await self._replace()

    async def _wait_stirred(self) -> None:
        """Wait for an open or close.  One that falls between a look and this still comes."""
        self._stirred = trio.Event()
        await self._stirred.wait()

    async def _session(self) -> None:
        """From the first open to the last close, or the end of what was typed."""
        if self._attachment is None:
            self._attachment = Attachment(self._console, self._pty, self.manners, held=True)
        attachment = self._attachment
        self._keeper.changed()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._open_output, attachment)
                await attachment.run()
                nursery.cancel_scope.cancel()
        finally:
            if attachment.over:
                self._attachment = None
                self._keeper.changed()

    async def _open_output(self, attachment: Attachment) -> None:
        """Let output begin when the client has flushed; end the session when it has closed.

        ``cat file > link`` closes long before its last byte is sent: the rest goes on from
        the input queue.  Only where all typists together have as much waiting as may be,
        the session goes on, with whoever opens the PTY meanwhile.
        """
        while True:
            if attachment.held:
                await self._wait_quiet()
                attachment.begin()
            # The attachment may know better: one has closed, and another opened it since.
            while not (self._pty.hung_up() or attachment.hung_up):
                await self._wait_stirred()
            attachment.hold()
            if attachment.take_rest():
                return
            while self._pty.hung_up():
                await self._wait_stirred()
            attachment.skip_to_present()

    async def _wait_quiet(self) -> None:
        now = trio.current_time()
        limit = now + QUIET_LIMIT
        self._pty.last_control = now
        while (quiet := min(self._pty.last_control + QUIET, limit)) > trio.current_time():
            await trio.sleep_until(quiet)

    async def _replace(self) -> None:
        # Closed first: the kernel hands out the lowest free number, so the new one
        # nearly always has the old one's path.
        self._let_go()
        await self._keeper.settle()
        warned = False
        while True:
            try:
                self._install(Pty.create(), new=True)
            except OSError as error:
                self._link.remove()
                # None to be had (kernel.pty.max, descriptors): the console lives on without.
                if not warned:
                    self._warn(f"no new PTY, trying again every second: {error.strerror}")
                    warned = True
                await trio.sleep(1)  # no event tells when one is free
            else:
                return
