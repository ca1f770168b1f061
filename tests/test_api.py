"""bridge.api against a real service: what a provisioning script, or a test of somebody's, needs."""

import itertools
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from bridge import api
from bridge.base import wire
from bridge.base.errors import AskError, BridgeError, GoneError, StartError, UsageError
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import free_port
from tests.support.user import REPOSITORY, User
from tests.test_control import DOCUMENT, fields, rows

NOBODY = "ws://127.0.0.1:9"
LIMIT = 30


@pytest.fixture(scope="module")
def demo(user: User) -> Iterator[Bridge]:
    """A service with the built-in console, for all tests that leave it as it was."""
    with Bridge(user, user.directory("api"), command="demo") as bridge:
        bridge.wait_message("demo: ONLINE")
        yield bridge


@pytest.fixture
def service(demo: Bridge) -> api.Service:
    return api.Service(demo.directory)


async def settle(console: api.Console) -> None:
    """See all that was printed so far, up to the prompt."""
    mark = f"settled-{next(_numbers)}"
    await console.send(f"echo {mark}", enter=True)
    await console.wait_for(f"\n{mark}\ndemo$ ")


_numbers = itertools.count()


async def test_a_command_is_run_at_a_console(service: api.Service) -> None:
    with trio.fail_after(LIMIT):
        async with await service.open("demo") as console:
            await settle(console)
            await console.send("echo begin; echo", enter=True)
            found = await console.wait_for(re.compile(r"^demo(.) $", re.MULTILINE))
    assert found.before == "echo begin; echo\nbegin; echo\n"
    assert (found.text, found.match[1]) == ("demo$ ", "$")


async def test_what_was_waited_for_and_the_stream_share_the_output(service: api.Service) -> None:
    with trio.fail_after(LIMIT):
        async with await service.open("demo") as console:
            await settle(console)
            await console.send_all(b"echo one-two\r")
            await console.wait_for("echo one-two\n")
            await console.wait_for("one-")
            seen = b""
            while not seen.endswith(b"demo$ "):
                seen += await console.receive_some(3)
            assert seen == b"two\r\ndemo$ "
            await console.send_eof()  # output goes on
            await service.send("demo", "echo more", enter=True)
            await console.wait_for(re.compile(r"^more$", re.MULTILINE))


async def test_a_wait_that_is_given_up_loses_nothing(service: api.Service) -> None:
    async with await service.open("demo") as console:
        await settle(console)
        await service.send("demo", "echo kept", enter=True)
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
            await console.wait_for("never printed")
        with trio.fail_after(LIMIT):
            found = await console.wait_for(re.compile(r"^kept\n", re.MULTILINE))
        assert found.before == "echo kept\n"


async def test_what_was_printed_before_is_found_if_wished(service: api.Service) -> None:
    with trio.fail_after(LIMIT):
        await service.send("demo", "echo long ago", enter=True)
        await service.wait("demo", re.compile(r"^long ago\n", re.MULTILINE), replay=True)
        async with await service.open("demo", replay=1000) as console:
            await console.wait_for("long ago")
    with trio.move_on_after(0.2) as scope:
        await service.wait("demo", "long ago")
    assert scope.cancelled_caught


async def test_status_is_what_the_document_says(service: api.Service, demo: Bridge) -> None:
    async with await service.open("demo", readonly=True):
        status = await service.status()
        assert status["service"]["pid"] == demo.process.pid
        assert await service.consoles() == ["demo"]
        console = await service.console("demo")
    assert (console["state"], console["attachments"][0]["kind"]) == ("ONLINE", "attach")
    assert console["attachments"][0]["writable"] is False
    # The types are those of the document, which tests/test_control.py compares with the answers.
    assert list(wire.ServiceStatus.__annotations__) == list(rows("`service` field"))
    documented = rows("`consoles` field")
    assert list(wire.ConsoleStatus.__annotations__) == [n for n in documented if "." not in n]
    for record, prefix in (
        (wire.AttachmentStatus, "attachments."),
        (wire.Typist, "typed."),
        (wire.MachineStatus, "machine."),
        (wire.InputStatus, "input."),
        (wire.ByteCounts, "bytes."),
        (wire.LogStatus, "log."),
    ):
        names = [n.removeprefix(prefix) for n in documented if n.startswith(prefix)]
        assert list(record.__annotations__) == names
    assert set(fields(dict(console))) <= set(documented)
    assert "bridge.api" in DOCUMENT


async def test_consoles_come_and_go(service: api.Service, demo: Bridge) -> None:
    with trio.fail_after(LIMIT):
        added = await service.add("extra", NOBODY, raw=False, unix=True)
        assert (added["name"], added["raw"]) == ("extra", None)
        assert added["unix"] == str(demo.directory / ".unix" / "extra")
        async with await service.open("extra") as console:
            with pytest.raises(AskError, match=r"extra is [A-Z]+( \(.+\))?: 0 of 3 bytes sent"):
                await console.send("off")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.remove, "extra")
                with pytest.raises(GoneError, match="extra: the console has been removed, or"):
                    await console.wait_for("login: ")
            assert await console.receive_some() == b""
            with pytest.raises(trio.BrokenResourceError):
                await console.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await console.receive_some()
        assert await service.consoles() == ["demo"]


async def test_a_console_is_typed_at_as_soon_as_it_can_be(
    service: api.Service, directory: Path
) -> None:
    port = free_port()
    with trio.fail_after(LIMIT):
        await service.add("late", f"ws://127.0.0.1:{port}")
        with trio.move_on_after(0.2) as scope:
            await service.wait_online("late")
        assert scope.cancelled_caught
        with Fake("echo", port):
            await service.wait_online("late")
            await service.send("late", "now")
            text = await service.metrics()
        await service.remove("late")
    assert 'console="late"' in text


async def test_errors_are_one_line_each(service: api.Service, directory: Path) -> None:
    with pytest.raises(AskError, match=r"^no console 'none'$"):
        await service.open("none")
    with pytest.raises(AskError, match="no console 'none'"):
        await service.send("none", "x")
    with pytest.raises(AskError, match="demo: ") as refused:
        await service.send_break("demo")
    assert refused.value.exit_code == 1
    with pytest.raises(AskError, match="demo: not rescued: it is ONLINE, not locked"):
        await service.rescue("demo")
    with pytest.raises(AskError, match="url: 'http://h': scheme") as refused:
        await service.add("x", "http://h")
    assert isinstance(refused.value, BridgeError)
    with pytest.raises(AskError, match="started without a configuration file"):
        await service.reload()
    with pytest.raises(AskError, match="replay: found -1"):
        await service.open("demo", replay=-1)
    async with await service.open("demo", readonly=True) as console:
        with pytest.raises(UsageError, match="demo: opened with readonly"):
            await console.send("x")
    with pytest.raises(StartError, match=r"no ttybridge runs with .*; start one with 'ttybridge"):
        await api.Service(directory / "none").status()


def test_the_default_is_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert api.Service().directory == tmp_path / "ttybridge"


async def test_a_restart_goes_unnoticed(user: User, directory: Path) -> None:
    with Fake("echo") as vm, Bridge(user, directory / "run", f"vm={vm.url}") as bridge:
        bridge.wait_message("ONLINE")
        service = api.Service(bridge.directory)
        with trio.fail_after(LIMIT):
            async with await service.open("vm") as console:
                await console.send("before ")
                user.run(["ttybridge", "reload", "--exec", "--runtime-dir", bridge.directory])
                await console.send("after")
                await console.wait_for("before after")
                assert bridge.stop() == 0
                with pytest.raises(GoneError):
                    await console.wait_for("more")
        with pytest.raises(StartError):
            await service.status()


async def test_many_at_once_and_a_full_backlog(service: api.Service, demo: Bridge) -> None:
    """The kernel lets some wait for a service that is busy; the others have to try again."""
    done = 0

    async def ask() -> None:
        nonlocal done
        await service.status()
        done += 1

    demo.process.send_signal(signal.SIGSTOP)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(400):
                nursery.start_soon(ask)
            await trio.sleep(0.2)  # not for something: so that there are too many
            assert done == 0
            demo.process.send_signal(signal.SIGCONT)
    finally:
        demo.process.send_signal(signal.SIGCONT)
    assert done == 400


def test_importing_the_package_stays_light() -> None:
    code = (
        "import bridge, sys; print([m for m in sys.modules if m.startswith(('bridge.', 'trio'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert (REPOSITORY / "bridge" / "py.typed").exists()


def test_a_vm_is_provisioned(user: User, directory: Path, linux: Path) -> None:
    """contrib/examples/provision.py as it stands, with a real guest that asks for a login."""
    script = directory / "provision.py"
    shutil.copy(REPOSITORY / "contrib" / "examples" / "provision.py", script)
    script.chmod(0o755)
    run = directory / "run"
    where: list[str | Path] = ["--runtime-dir", run]
    refused = user.run(["python", script, linux, "true", *where])
    assert refused.returncode == 1
    assert re.fullmatch("provision: no ttybridge runs with .*\n", refused.stderr)
    with Bridge(user, run, f"other={NOBODY}") as bridge:
        bridge.wait_message("WAITING")
        command = "cat /proc/version; seq 300; sh -c 'exit 12'"
        done = user.run(["python", script, linux, command, *where], timeout=100)
        assert re.fullmatch("(qemu-system-x86_64: .* info: QEMU waiting for .*\n)?", done.stderr)
        version, *numbers, said = done.stdout.splitlines()
        assert version.startswith("Linux version")
        assert numbers == [str(n) for n in range(1, 301)]
        assert (said, done.returncode) == ("exit status 12", 12)
        assert [c["name"] for c in [bridge.status()]] == ["other"]


def test_a_guest_is_tested(user: User, directory: Path) -> None:
    """contrib/examples/test_guest.py as it stands."""
    script = directory / "test_guest.py"
    shutil.copy(REPOSITORY / "contrib" / "examples" / "test_guest.py", script)
    script.chmod(0o644)
    env = {"XDG_RUNTIME_DIR": str(directory)}
    pytest: list[str | Path]
    pytest = ["python", "-m", "pytest", "-p", "no:cacheprovider", "-o", "trio_mode=true", script]
    refused = user.run(pytest, env=env)
    assert "StartError: no ttybridge runs with" in refused.stdout
    with Fake("shell") as vm, Bridge(user, directory / "ttybridge", f"vm1={vm.url}") as bridge:
        bridge.wait_message("vm1: ONLINE")
        with Client(bridge.raw) as client:
            client.sync()
        done = user.run(pytest, env=env)
    assert "1 passed" in done.stdout, done.stdout
