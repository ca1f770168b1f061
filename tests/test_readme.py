"""What the README says is so: its commands, its table of settings, its examples."""

import re
from pathlib import Path

from bridge.settings.config import KEYS, SERVICE_KEYS, parse
from tests.support import readme
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import free_port
from tests.support.user import REPOSITORY, User


def test_readme_run_and_check(user: User, directory: Path) -> None:
    (run,) = [c for c in readme.commands() if c.startswith("ttybridge run vm1=")]
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


def test_readme_while_it_runs(user: User, directory: Path) -> None:
    (block,) = [b for b in readme.blocks("sh") if "ttybridge status" in b]
    env = {"XDG_RUNTIME_DIR": str(directory)}
    with (
        Fake("shell") as vm,
        Bridge(user, directory / "ttybridge", f"vm1={vm.url}") as bridge,
        Client(bridge.raw) as client,
    ):
        bridge.wait_message("vm1: ONLINE")
        for line in block.splitlines():
            command = re.sub(r"\s+# .*", "", line).replace("4556", str(vm.port))
            process = user.popen(["sh", "-c", command], env)
            if "wait" in command:  # for the prompt, which comes with the next Enter
                bridge.wait_attached(2)
                client.type(b"\r")
            assert process.wait(30) == 0, command
        client.read_until(b"root")


def test_readme_completion(user: User) -> None:
    for shell, line in readme.table("shell"):
        (command,) = readme.code(line.replace("\\|", "|"))
        assert f"ttybridge completion {shell.split(',')[0]}" in command
        done = user.run(["sh", "-c", command.replace("| source", "").replace("eval", ":")])
        assert (done.returncode, done.stderr) == (0, "")


def test_readme_python(user: User, directory: Path) -> None:
    (program,) = readme.blocks("python")
    env = {"XDG_RUNTIME_DIR": str(directory)}
    with Fake("shell") as vm, Bridge(user, directory / "ttybridge", f"vm1={vm.url}") as bridge:
        bridge.wait_message("vm1: ONLINE")
        with Client(bridge.raw) as client:
            client.sync()
        done = user.run(["python", "-c", program], env=env)
    assert done.stderr == ""
    assert "uptime: not a command" in done.stdout


def test_readme_discover(user: User) -> None:
    (block,) = [b for b in readme.blocks("sh") if "ttybridge discover" in b]
    look, run = (re.sub(r"\s+# .*", "", line) for line in block.splitlines())
    assert user.run(look.split()).returncode == 0
    # tests/test_reload.py runs it.
    assert run == "ttybridge run --discover"


def test_readme_doctor(user: User, directory: Path) -> None:
    (command,) = [c for c in readme.commands() if c.startswith("ttybridge doctor")]
    env = {"XDG_RUNTIME_DIR": str(directory)}
    with Fake("shell") as vm, Bridge(user, directory / "ttybridge", f"vm1={vm.url}") as bridge:
        bridge.wait_message("vm1: ONLINE")
        done = user.run(command.split(), env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("vm1: a shell\n")
        with Client(bridge.raw) as client:
            client.sync()  # nothing was left on its line


def test_every_command_of_the_readme_is_run_here() -> None:
    # tests/test_systemd.py runs the last of these, under a systemd of its own.
    known = (
        "contrib/demo",
        "contrib/check",
        "ttybridge run",
        "ttybridge check",
        "printf",
        "echo",
        *(f"ttybridge {word}" for word in ("status", "send", "wait", "add", "remove", "reload")),
        "ttybridge discover",
        "ttybridge doctor",
        "ttybridge install",
    )
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
