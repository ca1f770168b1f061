"""Consoles come, change and go while the service runs: by reload, by hand, by themselves."""

import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge.commands.client import AskError
from bridge.commands.client import Client as Control
from bridge.settings.config import parse
from bridge.settings.reload import difference
from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import free_port
from tests.support.user import User
from tests.support.waiting import eventually

NOBODY = "ws://127.0.0.1:9"


class Filed:
    """A service that reads a file, which can be written anew; a context by ``bridge``."""

    def __init__(self, user: User, directory: Path) -> None:
        self._user = user
        self.file = directory / "config.toml"
        self.run = directory / "run"

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self.file.chmod(0o644)

    def bridge(self) -> Bridge:
        return Bridge(self._user, self.run, "--config", str(self.file))

    def reload(self) -> dict[str, list[str]]:
        with Control(self.run) as control:
            answer = control.ask("reload")
        return {what: answer[what] for what in ("added", "removed", "changed", "errors")}

    def names(self) -> list[str]:
        with Control(self.run) as control:
            return [console["name"] for console in control.ask("status")["consoles"]]


@pytest.fixture
def filed(user: User, directory: Path) -> Filed:
    return Filed(user, directory)


@pytest.fixture
def vm() -> Iterator[Fake]:
    with Fake("echo") as fake:
        yield fake


def console(name: str, url: str, more: str = "") -> str:
    return f'[consoles.{name}]\nurl = "{url}"\n{more}\n'


def test_what_did_not_change_keeps_its_clients_and_its_guest(filed: Filed, vm: Fake) -> None:
    filed.write(console("vm", vm.url) + console("old", NOBODY))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        before = bridge.status()
        with Client(bridge.raw) as client:
            bridge.wait_attached()
            filed.write(console("new", NOBODY) + console("vm", vm.url))
            assert filed.reload() == {
                "added": ["new"],
                "removed": ["old"],
                "changed": [],
                "errors": [],
            }
            assert filed.names() == ["vm", "new"]
            client.type(b"k")
            client.read_until(b"k")
        after = bridge.status()
        assert after["connections"] == before["connections"] == 1
        assert [after[key] for key in ("pty", "raw", "telnet")] == [
            before[key] for key in ("pty", "raw", "telnet")
        ]
        assert not (filed.run / "old").is_symlink()
        assert (filed.run / "new").is_symlink()


def test_a_change_touches_only_what_it_is_about(filed: Filed, vm: Fake) -> None:
    """A telnet port moves, a replay grows: the raw client, the PTY and the guest stay."""
    filed.write(console("vm", vm.url))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        before = bridge.status()
        port = free_port()
        with Client(bridge.raw) as client:
            bridge.wait_attached()
            filed.write(console("vm", vm.url, f'telnet = {port}\nreplay = "64KiB"\nunix = true'))
            assert filed.reload()["changed"] == ["vm"]
            client.type(b"k")
            client.read_until(b"k")
            after = bridge.status()
            assert after["telnet"] == f"127.0.0.1:{port}"
            assert Path(after["unix"]).is_socket()
            assert [after[k] for k in ("pty", "raw", "connections")] == [
                before[k] for k in ("pty", "raw", "connections")
            ]
            # Another URL is another guest; who is attached stays.
            with Fake("echo") as other:
                filed.write(console("vm", other.url, f"telnet = {port}"))
                assert filed.reload()["changed"] == ["vm"]
                eventually(lambda: bridge.status()["connections"] == 2)
                client.type(b"l")
                client.read_until(b"l")
                assert not Path(after["unix"]).exists()


def test_a_reload_after_a_new_process_makes_parts_anew(filed: Filed, user: User, vm: Fake) -> None:
    """What the process before has left was used up when this one began."""
    filed.write(console("vm", vm.url))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        done = user.run(["ttybridge", "reload", "--exec", "--runtime-dir", filed.run])
        assert done.returncode == 0
        port = free_port()
        filed.write(console("vm", vm.url, f"telnet = {port}"))
        assert filed.reload()["changed"] == ["vm"]
        assert bridge.status()["telnet"] == f"127.0.0.1:{port}"
        with Client(("127.0.0.1", port)):
            bridge.wait_attached()
        assert bridge.process.poll() is None


def test_ports_can_change_hands_in_one_reload(filed: Filed) -> None:
    one, two = free_port(), free_port()
    filed.write(console("a", NOBODY, f"raw = {one}") + console("b", NOBODY, f"raw = {two}"))
    with filed.bridge() as bridge:
        bridge.places  # noqa: B018 (waits for the start)
        filed.write(console("a", NOBODY, f"raw = {two}") + console("b", NOBODY, f"raw = {one}"))
        assert filed.reload()["errors"] == []
        assert bridge.status()["raw"] == f"127.0.0.1:{two}"


def test_what_could_not_be_bound_is_bound_by_the_next_reload(filed: Filed) -> None:
    filed.write(console("vm", NOBODY))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: WAITING")
        with socket.create_server(("127.0.0.1", 0)) as other:
            port, free = other.getsockname()[1], free_port()
            text = f"telnet = {port}\nraw = {free}\nunix = true\npty_readonly = true"
            filed.write(console("vm", NOBODY, text))
            assert "is in use" in filed.reload()["errors"][0]
            # All others are there.
            assert bridge.status()["raw"] == f"127.0.0.1:{free}"
            assert Path(bridge.status()["unix"]).is_socket()
            assert (filed.run / "vm.ro").is_char_device()
            assert "is in use" in filed.reload()["errors"][0]
        assert filed.reload() == {"added": [], "removed": [], "changed": ["vm"], "errors": []}
        assert bridge.status()["telnet"] == f"127.0.0.1:{port}"
        assert filed.reload()["changed"] == []


def test_a_bad_file_changes_nothing_and_says_why(filed: Filed, user: User) -> None:
    filed.write(console("vm", NOBODY))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: WAITING")
        filed.write(console("vm", NOBODY, "speed = 9600") + console("two", NOBODY))
        with pytest.raises(AskError, match=r"config.toml: consoles.vm.speed: unknown key") as asked:
            filed.reload()
        assert asked.value.exit_code == 78
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_message("not reloaded: .*unknown key")
        assert filed.names() == ["vm"]
        filed.write(console("vm", NOBODY))
        done = user.run(["ttybridge", "reload", "--runtime-dir", filed.run])
        assert (done.returncode, done.stdout) == (0, "nothing has changed\n")
        filed.file.unlink()
        with pytest.raises(AskError, match="No such file"):
            filed.reload()
        done = user.run(["ttybridge", "reload", "--runtime-dir", filed.run])
        assert done.returncode == 78
        assert filed.names() == ["vm"]


def test_a_port_that_is_taken_costs_one_console(filed: Filed, vm: Fake) -> None:
    filed.write("")
    with filed.bridge() as bridge:
        eventually((filed.run / ".control").exists)
        taken = console("bad", NOBODY, f"raw = {vm.port}")
        filed.write(taken + console("good", NOBODY))
        done = filed.reload()
        assert len(done["errors"]) == 1
        assert "in use by another program" in done["errors"][0]
        assert filed.names() == ["good"]
        bridge.wait_message("good: WAITING")


def test_a_console_that_is_replaced_is_not_lost_to_a_taken_port(filed: Filed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        filed.write(console("vm", NOBODY))
        with filed.bridge() as bridge:
            bridge.wait_message("vm: WAITING")
            filed.write(console("vm", NOBODY, f'raw = {port}\nscrollback = "64KiB"'))
            done = filed.reload()
            assert done["changed"] == ["vm"]
            assert "is in use" in done["errors"][0]
            assert filed.names() == ["vm"]
            assert bridge.status()["raw"] is None
            assert bridge.link.is_char_device()
            with Control(filed.run) as control:
                control.ask("exec")
            assert filed.names() == ["vm"]
            assert bridge.link.is_char_device()
            other.close()
            assert filed.reload() == {"added": [], "removed": [], "changed": ["vm"], "errors": []}
            assert bridge.status()["raw"] == f"127.0.0.1:{port}"


def test_a_file_that_can_be_read_once_only_is_not_read_as_empty(user: User, filed: Filed) -> None:
    filed.write(console("vm", NOBODY))
    run = f"ttybridge run --json --runtime-dir {filed.run} --config <(cat {filed.file})"
    with user.popen(["bash", "-c", f"exec {run}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(AskError, match="can be read only once"):
            filed.reload()
        assert filed.names() == ["vm"]
        process.terminate()


def test_hangup_reloads_and_added_consoles_are_left_alone(filed: Filed, user: User) -> None:
    filed.write(console("a", NOBODY))
    with filed.bridge() as bridge:
        bridge.wait_message("a: WAITING")
        done = user.run(["ttybridge", "add", "mine", NOBODY, "--runtime-dir", filed.run])
        assert done.stdout == f"{filed.run}/mine\n"
        bridge.wait_message(f"mine: attach at {filed.run}/mine, 127.0.0.1:")
        filed.write(console("b", NOBODY))
        bridge.process.send_signal(signal.SIGHUP)
        bridge.wait_message("reloaded: 1 added, 1 removed")
        assert filed.names() == ["mine", "b"]
        filed.write(console("mine", NOBODY))
        with pytest.raises(AskError, match="two consoles are named 'mine'"):
            filed.reload()
        assert filed.names() == ["mine", "b"]
        assert user.run(["ttybridge", "remove", "mine", "--runtime-dir", filed.run]).returncode == 0
        assert filed.names() == ["b"]
        assert not (filed.run / "mine").is_symlink()


def test_what_cannot_be_added_is_said(user: User, filed: Filed) -> None:
    filed.write(console("a", NOBODY))
    with filed.bridge() as bridge:
        bridge.wait_message("a: WAITING")
        for words, message in {
            ("add", "a", NOBODY): "there is a console 'a' already; give this one another name",
            ("add", "-x", NOBODY): "unrecognized arguments|required",
            ("add", "b c", NOBODY): "'b c': not a name",
            ("add", "b", "http://x"): "scheme 'http' is not known",
            ("remove", "b"): "no console 'b'",
            ("send", "b", "x"): "no console 'b'",
            ("send", "a", "x"): r"a is WAITING \(.+\): 0 of 1 bytes sent",
        }.items():
            done = user.run(["ttybridge", *words, "--runtime-dir", filed.run])
            assert done.returncode in {1, 2, 78}
            assert done.stderr.count("\n") == 1
            assert re.search(message, done.stderr), done.stderr


def test_vms_are_bridged_as_they_come_and_retired_as_they_go(
    user: User, directory: Path, boot: Boot, figure: Callable[[str, list[float]], None]
) -> None:
    seconds = []
    config = directory / "config.toml"
    config.write_text("[defaults]\nscrollback = 65536\n[service]\ndiscover = true\n")
    config.chmod(0o644)
    with Bridge(user, directory / "run", "--config", str(config)) as bridge:
        for name in ("red", "blue"):
            began = time.monotonic()
            boot("echo", name=name)
            bridge.wait_message(f"{name}: ONLINE")
            seconds.append(time.monotonic() - began)
        red, blue = boot.running
        with Control(directory / "run") as control:
            consoles = {c["name"]: c for c in control.ask("status")["consoles"]}
        assert {"red", "blue"} <= consoles.keys()
        host, _, port = consoles["red"]["raw"].rpartition(":")
        with Client((host, int(port))) as client:
            client.type(b"k")
            client.read_until(b"k")
        # The same port, another VM.
        red.kill()
        blue.kill()
        boot("echo", name="green", port=red.port)
        bridge.wait_message("green: ONLINE")
        bridge.wait_message("red: retired")
        # Who was removed by hand stays so, whatever else the file says now.
        with Control(directory / "run") as control:
            control.ask("remove", name="green")
        config.write_text(config.read_text() + console("other", NOBODY))
        with Control(directory / "run") as control:
            assert control.ask("reload")["added"] == ["other"]
        boot("echo", name="later")
        bridge.wait_message("later: ONLINE")  # discovery goes on
        with Control(directory / "run") as control:
            names = [c["name"] for c in control.ask("status")["consoles"]]
        assert {"later", "other"} <= set(names)  # blue may be about to retire
        assert "green" not in names
        # Told not to, it forgets nobody, and finds nobody more.
        config.write_text("")
        with Control(directory / "run") as control:
            control.ask("reload")
            assert "later" in [c["name"] for c in control.ask("status")["consoles"]]
    figure("a VM starts with its firmware, then ONLINE by discovery", seconds)


def test_a_console_that_was_found_can_be_named_in_the_file(
    user: User, directory: Path, boot: Boot
) -> None:
    """And is the user's from then on: it stays when its VM goes.  Its clients do not notice."""
    filed = Filed(user, directory)
    filed.write("[service]\ndiscover = true\n")
    with filed.bridge() as bridge:
        vm = boot("echo", name="vm")
        bridge.wait_message("vm: ONLINE")
        filed.write("[service]\ndiscover = true\n" + console("vm", vm.url, "unix = true"))
        before = bridge.status("vm")
        host, _, port = before["raw"].rpartition(":")
        with Client((host, int(port))) as client:
            client.reach_echo()
            assert filed.reload()["changed"] == ["vm"]
            client.type(b"k")
            client.read_until(b"k")
        after = bridge.status("vm")
        assert after["unix"] is not None
        assert (after["pty"], after["connections"]) == (before["pty"], before["connections"])
        vm.kill()
        boot("echo", name="other")
        bridge.wait_message("other: ONLINE")
        assert {"vm", "other"} <= set(filed.names())
        assert not [line for line in bridge.messages if "vm: retired" in line]


def test_run_discover_needs_no_configuration(user: User, directory: Path, boot: Boot) -> None:
    with Bridge(user, directory / "run", "--discover") as bridge:
        boot("echo", name="found")
        bridge.wait_message("found: ONLINE")


def test_the_least_change_is_found() -> None:
    def settings(text: str) -> dict[str, object]:
        return {c.name: c for c in parse(text, "f").consoles}

    filed = settings(console("a", NOBODY) + console("b", NOBODY) + console("c", NOBODY))
    wanted = settings(
        console("b", NOBODY, "unix = true")
        + console("c", NOBODY, "scrollback = 8192")
        + console("d", NOBODY)
    )
    found = difference(filed, filed, wanted)  # type: ignore[arg-type]
    assert [set(s) for s in (found.added, found.removed, found.changed, found.replaced)] == [
        {"d"},
        {"a"},
        {"b"},
        {"c"},
    ]


@pytest.mark.long
def test_a_thousand_consoles_reload(
    filed: Filed, figure: Callable[[str, list[float]], None]
) -> None:
    """100 come and 50 go; the others' clients stay."""

    def text(names: range) -> str:
        return "[defaults]\nscrollback = 4096\n" + "".join(console(f"vm{n}", NOBODY) for n in names)

    filed.write(text(range(1000)))
    with filed.bridge() as bridge:
        assert bridge.process.stdout is not None
        places = [json.loads(bridge.process.stdout.readline()) for _ in range(1000)]
        last = places[-1]["raw"].rpartition(":")
        with Client((last[0], int(last[2]))) as client:
            began = time.monotonic()
            filed.write(text(range(50, 1100)))
            done = filed.reload()
            seconds = time.monotonic() - began
            assert (len(done["added"]), len(done["removed"])) == (100, 50)
            figure("reload of 1000 consoles, 100 added, 50 removed", [seconds])
            client.type(b"x")
            began = time.monotonic()
            status = [c for c in filed.names() if c == "vm999"]
            figure("status of 1050 consoles", [time.monotonic() - began])
            assert status
