"""The tools people use, on a real VM with Linux in it, as an ordinary user."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.qemu import Qemu
from tests.support.terminal import Terminal
from tests.support.user import User


@dataclass(frozen=True)
class Tool:
    """How to start a program on a console and how to leave it."""

    command: Callable[[Bridge], str]
    leave: tuple[tuple[str, ...], ...]


TOOLS = {
    "screen": Tool(lambda b: f"screen {b.link}", (("C-a", "k"), ("y",))),
    "picocom": Tool(lambda b: f"picocom -q {b.link}", (("C-a", "C-x"),)),
    "minicom": Tool(lambda b: f"minicom -D {b.link}", (("C-a", "x"), ("Enter",))),
    "tio": Tool(lambda b: f"tio {b.link}", (("C-t", "q"),)),
    "socat-pty": Tool(lambda b: f"socat -,rawer,escape=0x1d {b.link},rawer", (("C-]",),)),
    "socat-tcp": Tool(lambda b: "socat -,rawer,escape=0x1d TCP:{}:{}".format(*b.raw), (("C-]",),)),
    "socat-unix": Tool(
        lambda b: f"socat -,rawer,escape=0x1d UNIX-CONNECT:{b.places[0]['unix']}", (("C-]",),)
    ),
}


@pytest.fixture(scope="module")
def place(user: User, base: Path) -> Path:
    path = base / "tools"
    path.mkdir()
    user.own(path)
    return path


@pytest.fixture(scope="module")
def vm(tools: None, user: User, linux: Path, place: Path) -> Iterator[Qemu]:
    with Qemu(user, place, "linux", linux=linux) as vm:
        yield vm


@pytest.fixture(scope="module")
def bridge(vm: Qemu, user: User, place: Path) -> Iterator[Bridge]:
    config = place / "config.toml"
    config.write_text(f'[consoles.vm1]\nurl = "{vm.url}"\nunix = true\n')
    config.chmod(0o644)
    with Bridge(user, place / "run", "--config", str(config)) as bridge:
        bridge.wait_message("vm1: ONLINE")
        yield bridge


def use(user: User, directory: Path, bridge: Bridge, name: str, sum_: int) -> None:
    """Attach, run a command, see its output, leave."""
    tool = TOOLS[name]
    with Terminal(user, directory, tool.command(bridge)) as terminal:
        reach_prompt(terminal)
        terminal.type(f"echo $(({sum_} + 1000))-sum")
        terminal.keys("Enter")
        terminal.wait_for(rf"{sum_ + 1000}-sum")
        for keys in tool.leave:
            terminal.keys(*keys)
        terminal.wait_ended()


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


@pytest.mark.parametrize("name", TOOLS)
def test_tool_attaches_works_and_leaves(
    user: User, directory: Path, bridge: Bridge, name: str
) -> None:
    """Each tool, one after the other on the same console: so each also re-attaches."""
    use(user, directory, bridge, name, 1000)


def test_screen_twice_in_a_row(user: User, directory: Path, bridge: Bridge) -> None:
    """screen leaves TIOCEXCL behind, which would shut out everybody but root."""
    for round_ in range(2):
        use(user, directory, bridge, "screen", round_)
    use(user, directory, bridge, "picocom", 2)


def test_others_see_what_one_types(user: User, directory: Path, bridge: Bridge) -> None:
    """A script on the raw port reads the screen session's output.

    A script, since a second terminal would answer the shell's question for the cursor's
    position too, and the guest gets both answers.
    """
    with (
        socket.create_connection(bridge.raw, timeout=30) as script,
        Terminal(user, directory, TOOLS["screen"].command(bridge)) as terminal,
    ):
        reach_prompt(terminal)
        terminal.type("echo shared-$((1 + 1))")
        terminal.keys("Enter")
        seen = b""
        while b"shared-2" not in seen:
            seen += script.recv(4096)
        for keys in TOOLS["screen"].leave:
            terminal.keys(*keys)
        terminal.wait_ended()
