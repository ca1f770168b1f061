"""The tools people use, by the README's own commands, on a real VM with Linux in it.

Each attaches, types, pastes, sees, leaves and comes back: one after the other on the same
console, so that none may leave anything behind.
"""

import hashlib
import random
import socket
import string
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import readme
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.desk import PROMPT, Desk
from tests.support.fake import Fake
from tests.support.qemu import Qemu
from tests.support.terminal import Terminal
from tests.support.user import User

LINE = 200
MANY_LINES = 4096


@dataclass(frozen=True)
class Tool:
    """A row of the README's table."""

    name: str
    command: str
    keys: tuple[str, ...]
    """Those that leave; none for one that ends with its window."""

    @property
    def shows_past(self) -> bool:
        """Raw ports and Unix sockets are for programs; the others are for terminals."""
        return "4001" not in self.command and ".unix" not in self.command


TOOLS = {
    name: Tool(name, readme.code(command)[0], tuple(readme.code(leave)))
    for name, command, leave in readme.table("with")
}


@pytest.fixture(scope="module")
def desk(tools: None, user: User, linux: Path, base: Path) -> Iterator[Desk]:
    place = base / "desk"
    place.mkdir()
    user.own(place)
    with Qemu(user, place, "linux", linux=linux) as vm:
        desk = Desk(user, place, vm)
        with desk.bridge:
            desk.settle()
            yield desk


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each tool and program once or, in the long run, five times in a row."""
    rounds = 5 if metafunc.config.getoption("--long") else 1
    if "tool" in metafunc.fixturenames:
        tools = [tool for tool in TOOLS.values() for _ in range(rounds)]
        metafunc.parametrize("tool", tools, ids=lambda tool: tool.name)
    if "turn" in metafunc.fixturenames:
        metafunc.parametrize("turn", range(rounds))
    if "program" in metafunc.fixturenames:
        metafunc.parametrize("program", [name for name in PROGRAMS for _ in range(rounds)])


def test_tool(desk: Desk, directory: Path, tool: Tool) -> None:
    mark = desk.leave_a_mark()
    with desk.sit_down(directory, tool.command) as terminal:
        arrive(terminal, tool, mark)
        type_keys(terminal, desk)
        paste_a_line(terminal)
        leave(terminal, tool)
    desk.wait_alone()
    mark = desk.leave_a_mark()
    with desk.sit_down(directory, tool.command) as terminal:
        arrive(terminal, tool, mark)
        use(terminal, desk)
        leave(terminal, tool)
    desk.wait_alone()


@pytest.mark.long
def test_tool_takes_many_lines(desk: Desk, directory: Path, tool: Tool) -> None:
    mark = desk.leave_a_mark()
    with desk.sit_down(directory, tool.command) as terminal:
        arrive(terminal, tool, mark)
        paste_many_lines(terminal)
        leave(terminal, tool)
    desk.wait_alone()


def arrive(terminal: Terminal, tool: Tool, mark: str) -> None:
    """See what was printed before, or nothing of it; be at the guest's prompt."""
    if tool.shows_past:
        terminal.wait_for(mark)
        terminal.wait_for(rf"{mark}\n(.*\n)*guest#")
    else:
        press_until(terminal, "Enter", "guest# ")
        assert mark not in terminal.text


def press_until(terminal: Terminal, key: str, pattern: str) -> None:
    """A tool may take a moment until it reads keys."""
    for _ in range(20):
        terminal.keys(key)
        with suppress(AssertionError):
            terminal.wait_for(pattern, limit=1.5)
            return
    raise AssertionError(f"{key} was pressed in vain: no {pattern}")


def type_keys(terminal: Terminal, desk: Desk) -> None:
    """Enter is one CR, ^C is itself, and nothing is shown that the guest did not echo."""
    number = desk.number()
    terminal.type(f"keys 5 {number}")
    terminal.keys("Enter")
    terminal.wait_for(f"ready-{number}")
    terminal.type("ab")
    terminal.keys("Enter", "C-c")
    terminal.type("z")
    terminal.wait_for(rf"ready-{number}\n 61 62 0d 03 7a\n")
    assert terminal.text.count(f"keys 5 {number}") == 1


def use(terminal: Terminal, desk: Desk) -> None:
    """Run a command, see its output."""
    number = desk.number()
    terminal.type(f"echo used-$(({number}))")
    terminal.keys("Enter")
    terminal.wait_for(f"used-{number}\n(.*\n)*guest#")


def paste_a_line(terminal: Terminal) -> None:
    line, digest = line_to_paste()
    terminal.paste(line + "\n")
    terminal.wait_for(digest)


def line_to_paste() -> tuple[str, str]:
    """A command of LINE bytes with its Enter, and what it prints if all of it has arrived."""
    text = words(LINE - len("echo -n '' | md5sum\n"))
    line = f"echo -n '{text}' | md5sum"
    assert len(line) + 1 == LINE
    return line, hashlib.md5(text.encode()).hexdigest()


def paste_many_lines(terminal: Terminal) -> None:
    text = "".join(words(63) + "\n" for _ in range(MANY_LINES // 64))
    terminal.type("md5sum")
    terminal.keys("Enter")
    terminal.paste(text)
    terminal.keys("C-d")
    terminal.wait_for(hashlib.md5(text.encode()).hexdigest())


def words(length: int) -> str:
    letters = string.ascii_letters + string.digits + "    "
    return "".join(random.choices(letters, k=length))


def leave(terminal: Terminal, tool: Tool) -> None:
    """Press the last key again if need be: busybox loses one that comes too soon."""
    for key in tool.keys[:-1]:
        terminal.keys(key)
    if tool.keys:
        press_until(terminal, tool.keys[-1], r"ended with \d+")


def test_screen_twice_in_a_row(desk: Desk, directory: Path) -> None:
    """screen leaves TIOCEXCL behind, which would shut out everybody but root."""
    for name in ("screen", "screen", "picocom"):
        mark = desk.leave_a_mark()
        with desk.sit_down(directory, TOOLS[name].command) as terminal:
            arrive(terminal, TOOLS[name], mark)
            use(terminal, desk)
            leave(terminal, TOOLS[name])


def test_others_see_what_one_types(desk: Desk, directory: Path) -> None:
    """A script on the raw port reads the screen session's output.

    A script, since a second terminal would answer the shell's question for the cursor's
    position too, and the guest gets both answers.
    """
    mark = desk.leave_a_mark()
    with (
        socket.create_connection(desk.bridge.raw, timeout=30) as script,
        desk.sit_down(directory, TOOLS["screen"].command) as terminal,
    ):
        arrive(terminal, TOOLS["screen"], mark)
        terminal.type("echo shared-$((1 + 1))")
        terminal.keys("Enter")
        seen = b""
        while b"shared-2" not in seen:
            seen += script.recv(4096)
        leave(terminal, TOOLS["screen"])


PROGRAMS = {name: readme.code(opened)[0] for name, opened in readme.table("in Python, with")}

PYSERIAL = """
port = OPEN
if FRESH and port.port == link:
    past = port.read_until(b"MARK")
    assert past.endswith(b"MARK"), past
port.write(b"\\rkeys 3 NUMBER\\r")
assert port.read_until(b"ready-NUMBER\\r\\n").endswith(b"ready-NUMBER\\r\\n")
port.write(b"a\\rb")
answer = port.read_until(b"\\n")
assert answer == b" 61 0d 62\\n", answer
port.write(b"LINE\\r")
assert port.read_until(b"DIGEST").endswith(b"DIGEST")
port.close()
"""

PEXPECT = """
child = OPEN
child.expect("attached to|Escape character")
child.expect_exact("MARK")
child.send("\\rkeys 3 NUMBER\\r")
child.expect("ready-NUMBER\\r\\n")
child.send("a\\rb")
child.expect_exact(" 61 0d 62\\n")
assert child.before == b"", child.before
child.send("LINE\\r")
child.expect("DIGEST")
child.send("\\x1d")
if child.expect(["telnet> ", pexpect.EOF]) == 0:
    child.send("quit\\r")
    child.expect(pexpect.EOF)
child.wait()
assert child.exitstatus == 0
"""


def test_program(desk: Desk, program: str) -> None:
    """It opens, types, pastes, sees, closes and opens anew at once; and comes back.

    Like every terminal, a program on the PTY first reads what was printed before; but one
    that opens it anew at once may never have been away for the kernel.
    """
    for _ in range(2):
        mark = desk.leave_a_mark()
        code = one_opening(desk, program, mark, fresh=True)
        code += one_opening(desk, program, mark, fresh=False)
        done = desk.user.run(["python", "-c", code, desk.bridge.link], env=desk.environment)
        assert done.returncode == 0, done.stderr
        desk.wait_alone()


def one_opening(desk: Desk, program: str, mark: str, *, fresh: bool) -> str:
    """The code of a ``program`` that opens the console once."""
    library = {"pyserial": "serial", "pexpect": "pexpect"}[program.partition(",")[0]]
    code = {"serial": PYSERIAL, "pexpect": PEXPECT}[library]
    line, digest = line_to_paste()
    replaced = {
        "OPEN": desk.localised(PROGRAMS[program]),
        "FRESH": str(fresh),
        "NUMBER": str(desk.number()),
        "MARK": mark,
        "LINE": line,
        "DIGEST": digest,
    }
    for word, meaning in replaced.items():
        code = code.replace(word, meaning)
    return f"import {library}, sys; link = sys.argv[1]\n{code}"


@pytest.mark.usefixtures("turn")
def test_redirections(desk: Desk) -> None:
    """`cat` reads and types; a file is typed whole though its writer is gone at once."""
    mark, number = desk.leave_a_mark(), desk.number()
    with desk.user.popen(["cat", desk.bridge.link], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        lines = iter(reader.stdout.readline, b"")
        assert mark.encode() + b"\r\n" in lines
        desk.sh(f"echo 'echo typed-$(({number}))' > $(ttybridge path vm1)")
        assert b"typed-%d\r\n" % number in lines
        text = "".join(words(63) + "\n" for _ in range(MANY_LINES // 64))
        file = desk.user.home / "lines"
        file.write_text(f"md5sum\n{text}\x04")
        desk.user.own(file)
        desk.sh("cat ~/lines > $(ttybridge path vm1)")
        digest = hashlib.md5(text.encode()).hexdigest()
        assert f"{digest}  -\r\n".encode() in lines
        reader.kill()
    desk.wait_alone()


@pytest.mark.usefixtures("turn")
def test_readme_scripts(desk: Desk) -> None:
    scripts = [c for c in readme.commands() if c.startswith(("printf", "echo"))]
    assert len(scripts) == 2
    with Client(desk.bridge.raw) as witness:
        witness.type(b"stty -echo; uptime() { echo since-$((3 * 3)); }; echo set-$((1 + 1))\r")
        witness.read_until(b"set-2\r\n" + PROMPT)
        answer = desk.sh(scripts[0]).stdout
        assert "-cloud-amd64" in answer
        desk.sh(scripts[1])
        witness.read_until(b"since-9\r\n" + PROMPT)
        witness.type(b"stty echo\r")
        witness.read_until(PROMPT)


def test_several_bridges_wait_in_turn(user: User, directory: Path) -> None:
    """QEMU gives the console to one; the other bridge is BUSY and gets it next."""
    with Fake("echo") as vm:
        first = Bridge(user, directory / "one", f"vm={vm.url}")
        first.wait_message("vm: ONLINE")
        with Bridge(user, directory / "two", f"vm={vm.url}") as second:
            second.wait_message("vm: BUSY: another client")
            threading.Thread(target=first.stop).start()
            second.wait_message("vm: ONLINE")
        first.__exit__(None)
