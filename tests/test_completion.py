"""Tab in the real shells: subcommands, options, and consoles of the running service."""

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.cli import main
from tests.support.bridge import Bridge
from tests.support.terminal import Terminal
from tests.support.user import REPOSITORY, User

# How each is started without anybody's settings, and told of us.
SHELLS = {
    "bash": ("bash --norc -i", 'eval "$(ttybridge completion bash)"'),
    "zsh": (
        "zsh -f -i",
        'autoload -U compinit; compinit -u -D; eval "$(ttybridge completion zsh)"',
    ),
    "fish": ("fish --no-config -i", "ttybridge completion fish | source"),
}

NOBODY = "ws://127.0.0.1:9"


@pytest.fixture(scope="module")
def service(user: User) -> Iterator[Bridge]:
    """Where a service is without --runtime-dir, with two consoles."""
    runtime = Path(user.environment["XDG_RUNTIME_DIR"]) / "ttybridge"
    with Bridge(user, runtime, f"web-1={NOBODY}", f"web-2={NOBODY}", f"db={NOBODY}") as bridge:
        bridge.wait_message("db: WAITING")
        yield bridge


def complete(user: User, *words: str) -> list[str]:
    """What may come in place of the last word."""
    done = user.run(["ttybridge", "complete", "--", *words])
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_tab(tools: None, user: User, directory: Path, service: Bridge, shell: str) -> None:
    start, source = SHELLS[shell]
    with Terminal(user, directory, f"PS1='> ' {start}") as terminal:
        for line in (
            source,
            "clear; echo ready-$((1+1))" if shell != "fish" else "clear; echo ready-2",
        ):
            terminal.type(line)
            terminal.keys("Enter")
        terminal.wait_for(r"(?m)^ready-2")

        def tab(typed: str, seen: str) -> None:
            terminal.type(typed)
            terminal.keys("Tab")
            terminal.wait_for(seen)
            terminal.keys("C-u")

        tab("ttybridge att", r"ttybridge attach\b")
        tab("ttybridge attach d", r"ttybridge attach db\b")
        tab("ttybridge send w", r"ttybridge send web-")
        terminal.type("ttybridge send w")
        terminal.keys("Tab", "Tab", "Tab")
        terminal.wait_for(r"(?s)\n.*(web-1.*web-2|web-2.*web-1)")
        terminal.keys("C-u")
        tab("ttybridge attach db --re", r"ttybridge attach db --read-only\b")
        tab("ttybridge run --log-level w", r"ttybridge run --log-level warning\b")
        tab(f"ttybridge check {directory.parent}/home-ga", f"ttybridge check {user.home}/")
        tab(f"ttybridge status --runtime-dir {service.directory} d", rf"{service.directory} db\b")


def test_what_may_come(user: User, service: Bridge, directory: Path) -> None:
    everything = complete(user, "")
    assert {"run", "attach", "status", "completion"} < set(everything)
    assert "complete" not in everything
    assert not [word for word in everything if word.startswith("-")]
    assert complete(user, "st") == ["status"]
    assert complete(user, "--v") == ["--version"]
    names = ["web-1", "web-2", "db"]
    for command in ("attach", "send", "wait", "break", "remove", "status", "log", "path"):
        assert complete(user, command, "") == names
    assert complete(user, "attach", "web") == names[:2]
    assert complete(user, "attach", "--read-only", "") == names
    assert complete(user, "attach", "db", "") == []
    assert complete(user, "add", "") == []
    assert complete(user, "send", "db", "d") == []
    assert complete(user, "status", "--") == [
        *("--help", "--json", "--prometheus", "--watch", "--runtime-dir"),
    ]
    assert "--json" not in complete(user, "status", "--json", "--")
    assert complete(user, "run", "--log-level", "i") == ["info"]
    assert complete(user, "run", "--log-level", "info", f"x={NOBODY}", "--js") == ["--json"]
    assert complete(user, "completion", "") == ["bash", "zsh", "fish"]
    assert complete(user, "frobnicate", "") == []


def test_a_files_name_is_the_shells_business(user: User) -> None:
    for words in (["check", ""], ["run", "--config", "x"], ["attach", "--runtime-dir", ""]):
        assert user.run(["ttybridge", "complete", "--", *words]).returncode == 3


def test_no_service_no_names(user: User, service: Bridge, directory: Path) -> None:
    assert complete(user, "attach", "--runtime-dir", str(directory), "") == []
    assert complete(user, "attach", f"--runtime-dir={directory}", "") == []
    assert complete(user, "attach", "--runtime-dir", "=", str(directory), "") == []
    assert complete(user, "attach", "--runtime-dir", str(service.directory), "d") == ["db"]


WORDS = st.sampled_from(
    [
        *("", "-", "--", "=", "--=", "attach", "status", "run", "log", "add", "complete", "check"),
        *("--runtime-dir", "--runtime-dir=/x", "--json", "--log-level", "--since", "-f", "-h"),
        *("/nowhere", "~", "~nobody/x", "vm1", "ws://h:1", "\x1b", "\udcff", "é", "completion"),
    ]
)


@given(st.lists(WORDS, max_size=6))
@example(["attach", "--runtime-dir", "~nobody/x", ""])
def test_whatever_is_typed_tab_says_nothing_wrong(words: list[str]) -> None:
    said, wrong = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(wrong):
        code = main(["complete", "--", *words])
    assert (wrong.getvalue(), code in {0, 3}) == ("", True)
    assert code == 0 or said.getvalue() == ""


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from bridge.cli import main;"
        "main(['complete', '--', 'attach', '--runtime-dir', '/nowhere', '']);"
        "print([m for m in ('trio', 'websockets', 'trio_websocket') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "[]\n"


def test_a_shell_that_is_not_known(user: User) -> None:
    done = user.run(["ttybridge", "completion", "ksh"])
    assert done.returncode == 2
    assert "invalid choice: 'ksh'" in done.stderr
