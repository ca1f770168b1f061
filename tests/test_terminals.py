"""Real terminals answer what a guest asks, and nothing that is replayed to them.

screen and minicom are terminals themselves; picocom and tio pass everything to the one
they run in, here tmux.
"""

import os
import select
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.console.replay import replay
from tests.support.terminal import Terminal
from tests.support.user import User
from tests.support.waiting import LIMIT, eventually
from tests.test_replay import QUERIES, SHOWN

# The tool, and what it answers to besides DSR, of what leaves it as it was.
TOOLS = {
    "picocom": ("picocom -q", {"DA1", "CPR", "XTVERSION", "XTWINOPS"}),
    "minicom": ("minicom -o -D", {"ENQ", "DECID", "DA1", "CPR", "DECREQTPARM"}),
    "screen": ("screen", {"DECID", "DA1", "DA2", "CPR", "DECREQTPARM"}),
}
# What is in a sequence for who takes it for an 8-bit character set: CSI c.
CZECH = "věc".encode()

DSR, OK = b"\x1b[5n", b"\x1b[0n"


class Line:
    """A PTY, and a tool on it; this is the end that the guest has."""

    def __init__(self, user: User) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)  # an echo would be taken for an answer
        self.path = os.ttyname(slave)
        user.own(Path(self.path))
        self.slave = slave  # kept, so that the PTY stays as it is when the tool ends
        self._seen = b""

    def print(self, output: bytes) -> None:
        os.write(self.master, output)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)

    def answer_to(self, output: bytes) -> bytes:
        """What the terminal types at ``output``, before it answers what is asked behind it."""
        self.print(output + DSR)
        deadline = time.monotonic() + LIMIT
        while OK not in self._seen:
            left = deadline - time.monotonic()
            assert select.select([self.master], [], [], max(0, left))[0], "no answer to DSR"
            self._seen += os.read(self.master, 4096)
        answer, _, self._seen = self._seen.partition(OK)
        return answer


@contextmanager
def attached(
    user: User, directory: Path, command: str, environment: str
) -> Iterator[tuple[Line, Terminal]]:
    line = Line(user)
    try:
        with Terminal(user, directory, f"{environment} {command} {line.path}") as terminal:

            def shown() -> bool:
                # Until its flush and its own screen are over, a tool loses what it is sent.
                line.print(b"\r\nready\r\n")
                return "ready" in terminal.text

            eventually(shown, what="the tool's reading")
            line.answer_to(b"\x1b[2J\x1b[H")
            yield line, terminal
    finally:
        line.close()


@pytest.mark.parametrize("environment", ["LANG=C.UTF-8", "LANG=C"])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_terminal_answers_the_guest_and_not_the_replay(
    user: User, directory: Path, tools: None, tool: str, environment: str
) -> None:
    command, known = TOOLS[tool]
    with attached(user, directory, command, environment) as (line, _):
        assert {name for name in known if line.answer_to(QUERIES[name])} == known
        for name, query in QUERIES.items():
            assert line.answer_to(replay(query + b"\r\n", cut=False)) == b"", name
        everything = b"\r\n".join([*QUERIES.values(), *SHOWN.values(), CZECH, b""])
        assert line.answer_to(replay(everything, cut=False)) == b""


@pytest.mark.parametrize("tool", ["minicom", "screen"])
def test_the_middle_of_a_character_is_answered_only_when_it_is_live(
    user: User, directory: Path, tools: None, tool: str
) -> None:
    """Why there are CANs: these two, where no locale is set, as after `su`."""
    with attached(user, directory, TOOLS[tool][0], "LANG=C") as (line, _):
        assert line.answer_to(CZECH + b"\r\n") == b"\x1b[?1;2c"
        assert line.answer_to(replay(CZECH + b"\r\n", cut=False)) == b""


def test_minicom_does_not_receive_a_file_that_was_sent_long_ago(
    user: User, directory: Path, tools: None
) -> None:
    zmodem = b"rz\r**\x18B00000000000000\r\n\x8a\x11"  # what `sz` begins with
    with attached(user, directory, TOOLS["minicom"][0], "LANG=C") as (line, terminal):
        line.answer_to(replay(zmodem, cut=False))
        terminal.wait_for(r"\*\*B0000")
        assert "zmodem" not in terminal.text
        line.print(zmodem)
        terminal.wait_for("zmodem download")
