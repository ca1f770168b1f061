"""The tools people use, by the README's own commands, on a real VM with Linux in it."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bridge.config import KEYS, SERVICE_KEYS, parse
from tests.support import readme
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import Qemu, free_port
from tests.support.terminal import Terminal
from tests.support.user import REPOSITORY, User

if TYPE_CHECKING:
    import subprocess

ROWS = {row[0]: row[1:] for row in readme.table("with")}


class Desk:
    """A user's machine with the README's configuration running, on free ports."""

    def __init__(self, user: User, place: Path, vm: Qemu) -> None:
        self.user = user
        self._ports = {"4555": str(vm.port), "4001": str(free_port())}
        runtime = place / "runtime"
        runtime.mkdir()
        user.own(runtime)
        self.environment = {"XDG_RUNTIME_DIR": str(runtime)}
        config = place / "config.toml"
        config.write_text(self.localised(readme.blocks("toml")[0]))
        config.chmod(0o644)
        self.bridge = Bridge(user, runtime / "ttybridge", "--config", str(config))

    def localised(self, text: str) -> str:
        """The README's text with this machine's ports."""
        for port, own in self._ports.items():
            text = text.replace(port, own)
        return text

    def sit_down(self, directory: Path, name: str) -> Terminal:
        """Attach by the README's line for ``name``."""
        (command,) = readme.code(ROWS[name][0])
        exports = "; ".join(f"export {k}={v}" for k, v in self.environment.items())
        return Terminal(self.user, directory, f"{exports}; {self.localised(command)}")

    def sh(self, command: str) -> "subprocess.CompletedProcess[str]":
        return self.user.run(["sh", "-c", self.localised(command)], env=self.environment)


@pytest.fixture(scope="module")
def desk(tools: None, user: User, linux: Path, base: Path) -> Iterator[Desk]:
    place = base / "desk"
    place.mkdir()
    user.own(place)
    with Qemu(user, place, "linux", linux=linux) as vm:
        desk = Desk(user, place, vm)
        with desk.bridge as bridge:
            bridge.wait_message("vm1: ONLINE")
            yield desk


def use(desk: Desk, directory: Path, name: str, number: int) -> None:
    """Attach, run a command, see its output, leave by the README's keys."""
    with desk.sit_down(directory, name) as terminal:
        reach_prompt(terminal)
        terminal.type(f"echo $(({number} + 1000))-sum")
        terminal.keys("Enter")
        terminal.wait_for(rf"{number + 1000}-sum")
        leave(terminal, name)


def reach_prompt(terminal: Terminal) -> None:
    """Press Enter until the guest answers: a tool may take a moment until it reads keys."""
    for _ in range(20):
        terminal.keys("Enter")
        try:
            terminal.wait_for("guest# ", limit=1.5)
        except AssertionError:
            continue
        return
    raise AssertionError("no prompt")


def leave(terminal: Terminal, name: str) -> None:
    for key in readme.code(ROWS[name][1]):
        terminal.keys(key)
    terminal.wait_ended()


@pytest.mark.parametrize("name", ROWS)
def test_tool_attaches_works_and_leaves(desk: Desk, directory: Path, name: str) -> None:
    """Each one after the other on the same console: so each also attaches anew."""
    use(desk, directory, name, 1000)


def test_screen_twice_in_a_row(desk: Desk, directory: Path) -> None:
    """screen leaves TIOCEXCL behind, which would shut out everybody but root."""
    for number in range(2):
        use(desk, directory, "screen", number)
    use(desk, directory, "picocom", 2)


def test_others_see_what_one_types(desk: Desk, directory: Path) -> None:
    """A script on the raw port reads the screen session's output.

    A script, since a second terminal would answer the shell's question for the cursor's
    position too, and the guest gets both answers.
    """
    with (
        socket.create_connection(desk.bridge.raw, timeout=30) as script,
        desk.sit_down(directory, "screen") as terminal,
    ):
        reach_prompt(terminal)
        terminal.type("echo shared-$((1 + 1))")
        terminal.keys("Enter")
        seen = b""
        while b"shared-2" not in seen:
            seen += script.recv(4096)
        leave(terminal, "screen")


def test_readme_scripts(desk: Desk) -> None:
    scripts = [c for c in readme.commands() if c.startswith(("printf", "echo"))]
    assert len(scripts) == 2
    with Client(desk.bridge.raw) as witness:
        witness.type(b"stty -echo; uptime() { echo since-$((3 * 3)); }\r")
        witness.read_until(b"guest# ")
        answer = desk.sh(scripts[0]).stdout
        assert "-cloud-amd64" in answer
        desk.sh(scripts[1])
        witness.read_until(b"since-9")
        witness.type(b"stty echo\r")


def test_readme_run_and_check(user: User, directory: Path) -> None:
    (run,) = [c for c in readme.commands() if c.startswith("ttybridge run")]
    words = run.split()
    assert words[:3] == ["ttybridge", "run", "vm1=ws://127.0.0.1:4555"]
    with Fake("echo") as vm:
        more = [word.replace("4001", str(free_port())) for word in words[3:]]
        with Bridge(user, directory / "run", words[2].replace("4555", str(vm.port)), *more) as b:
            b.wait_message("vm1: ONLINE")
    config = directory / "config" / "ttybridge"
    config.mkdir(parents=True)
    (config / "config.toml").write_text(readme.blocks("toml")[0])
    for path in (config.parent, config):
        path.chmod(0o755)
    directory.chmod(0o755)
    (check,) = [c for c in readme.commands() if c.startswith("ttybridge check")]
    done = user.run(check.split(), env={"XDG_CONFIG_HOME": str(directory / "config")})
    assert (done.returncode, "good, 2 consoles" in done.stdout) == (0, True)


def test_readme_demo(user: User, directory: Path) -> None:
    """contrib/demo is `contrib/venv`, then this; the installation is not repeated here."""
    script = (REPOSITORY / "contrib" / "demo").read_text()
    assert 'exec "$here/../.venv/bin/ttybridge" demo "$@"' in script
    with Bridge(user, directory / "run", command="demo") as bridge:
        bridge.wait_message("demo: ONLINE")
        with Client(bridge.raw) as client:
            client.type(b"\rhelp\r")
            client.read_until(b"this list")


def test_every_command_of_the_readme_is_run_here() -> None:
    known = ("contrib/demo", "contrib/check", "ttybridge run", "ttybridge check", "printf", "echo")
    assert [c for c in readme.commands() if not c.startswith(known)] == []


def test_readme_names_every_setting_with_its_values() -> None:
    rows = {readme.code(name)[0]: allowed for name, _, allowed in readme.table("key")}
    assert rows == {name: key.allowed for name, key in KEYS.items()}
    rows = {readme.code(name)[0]: allowed for name, _, allowed in readme.table("service key")}
    assert rows == {name: key.allowed for name, key in SERVICE_KEYS.items()}
    assert len(parse(readme.blocks("toml")[0], "README").consoles) == 2


def test_readme_qemu_line_is_the_tests_own() -> None:
    (line,) = [b.strip() for b in readme.blocks("") if b.startswith("-chardev")]
    source = (REPOSITORY / "tests" / "support" / "qemu.py").read_text()
    assert "-serial chardev:c" in line
    for word in line.split()[1].split(",")[:3]:
        assert word in source


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
