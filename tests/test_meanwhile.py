"""What comes while something else is under way: a reload, a removal, a handover, the end.

To leave a console that does not let go takes its time; all this falls into it.
"""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.commands.client import AskError
from bridge.commands.client import Client as Control
from tests.support.bridge import Bridge
from tests.support.fake import Fake
from tests.support.stubborn import Stubborn
from tests.support.user import User
from tests.support.waiting import eventually
from tests.test_reload import NOBODY, Filed, console


@pytest.fixture
def filed(user: User, directory: Path) -> Filed:
    return Filed(user, directory)


@pytest.fixture
def stubborn() -> Iterator[Stubborn]:
    with Stubborn() as server:
        yield server


def begin(control: Control, request: bytes, stubborn: Stubborn) -> None:
    """Ask for what lasts until ``stubborn`` has been waited for long enough."""
    control.socket.sendall(request + b"\n")
    assert stubborn.left.wait(20)


def test_a_stop_during_a_reload(filed: Filed, stubborn: Stubborn) -> None:
    filed.write(console("vm", stubborn.url))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        filed.write(console("vm", NOBODY) + console("new", NOBODY))
        with Control(filed.run) as control:
            begin(control, b'{"do": "reload"}', stubborn)
            assert bridge.stop() == 0
        assert not [line for line in bridge.messages if "Error" in line]


def test_a_stop_during_a_reload_by_signal_is_not_kept_waiting(
    filed: Filed, stubborn: Stubborn
) -> None:
    filed.write(console("vm", stubborn.url) + console("other", NOBODY))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        filed.write(console("other", NOBODY))
        bridge.process.send_signal(signal.SIGHUP)
        assert stubborn.left.wait(20)
        assert bridge.stop() == 0
        assert "not reloaded: the service is ending" in bridge.messages


def test_a_console_that_is_added_at_the_end_is_refused(filed: Filed, stubborn: Stubborn) -> None:
    filed.write(console("vm", stubborn.url))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        with Control(filed.run) as control:
            control.ask("status")
            bridge.process.send_signal(signal.SIGTERM)
            assert stubborn.left.wait(20)
            with pytest.raises(AskError, match="the service is ending"):
                control.ask("add", name="new", settings={"url": NOBODY})
        assert bridge.process.wait(10) == 0


def test_a_handover_during_a_reload_comes_after_it(filed: Filed, stubborn: Stubborn) -> None:
    filed.write(console("vm", stubborn.url) + console("old", NOBODY))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        filed.write(console("vm", NOBODY) + console("new", NOBODY))
        with Control(filed.run) as control, Control(filed.run) as other:
            begin(control, b'{"do": "reload"}', stubborn)
            other.ask("exec")
        # Whoever connects from now on is the next process's.
        assert filed.names() == ["vm", "new"]
        assert bridge.status()["url"] == NOBODY
        assert bridge.stop() == 0


def test_a_console_that_is_being_removed_is_not_handed_over(
    filed: Filed, stubborn: Stubborn
) -> None:
    filed.write(console("vm", stubborn.url) + console("other", NOBODY))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        with Control(filed.run) as control, Control(filed.run) as other:
            begin(control, b'{"do": "remove", "name": "vm"}', stubborn)
            other.ask("exec")
        assert filed.names() == ["other"]
        assert bridge.stop() == 0


def test_a_reload_waits_for_a_console_that_is_being_removed(
    filed: Filed, stubborn: Stubborn
) -> None:
    filed.write(console("vm", stubborn.url))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        filed.write(console("vm", NOBODY))
        with Control(filed.run) as control:
            begin(control, b'{"do": "remove", "name": "vm"}', stubborn)
            assert filed.reload()["added"] == ["vm"]
        assert bridge.status()["url"] == NOBODY


def test_a_name_that_is_taken_during_a_reload(filed: Filed, stubborn: Stubborn) -> None:
    filed.write(console("a", NOBODY) + console("vm", stubborn.url))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        bridge.wait_message("a: WAITING")
        filed.write(console("a", NOBODY, 'scrollback = "64KiB"'))
        with Control(filed.run) as control, Control(filed.run) as other:
            begin(control, b'{"do": "reload"}', stubborn)
            eventually(lambda: filed.names() == ["vm"])
            other.ask("add", name="a", settings={"url": NOBODY})
            assert b"there is a console 'a' already" in control.socket.recv(4096)
        descriptors = Path(f"/proc/{bridge.process.pid}/fd")
        links = [os.readlink(descriptor) for descriptor in descriptors.iterdir()]
        assert links.count("/dev/ptmx") + links.count("/dev/pts/ptmx") == 1


def test_nobody_attaches_to_a_console_that_is_being_removed(
    filed: Filed, stubborn: Stubborn
) -> None:
    filed.write(console("vm", stubborn.url))
    with filed.bridge() as bridge:
        bridge.wait_message("vm: ONLINE")
        with Control(filed.run) as control, Control(filed.run) as other:
            begin(control, b'{"do": "remove", "name": "vm"}', stubborn)
            with pytest.raises(AskError, match="no console 'vm'"):
                other.attach("vm")


@pytest.mark.parametrize("first", [signal.SIGUSR2, signal.SIGHUP])
def test_a_stop_that_comes_with_another_signal_is_obeyed(
    filed: Filed, first: signal.Signals
) -> None:
    with Fake("echo") as vm:
        filed.write(console("vm", vm.url))
        with filed.bridge() as bridge:
            bridge.wait_message("vm: ONLINE")
            for number in (signal.SIGSTOP, first, signal.SIGTERM, signal.SIGCONT):
                bridge.process.send_signal(number)
            assert bridge.process.wait(10) == 0


def test_a_console_that_had_clients_and_is_gone_is_no_part_of_a_handover(
    user: User, directory: Path
) -> None:
    run = directory / "run"
    with Bridge(user, run, f"vm={NOBODY}") as bridge:
        bridge.wait_message("vm: WAITING")
        with Control(run) as control:
            control.ask("add", name="two", settings={"url": NOBODY})
        with Control(run) as control:
            control.attach("two")
        with Control(run) as control:
            control.ask("remove", name="two")
        with Control(run) as control:
            control.ask("exec")
        with Control(run) as control:
            assert [console["name"] for console in control.ask("status")["consoles"]] == ["vm"]
        assert bridge.stop() == 0


def test_a_request_that_is_odd_is_refused(bridge: Bridge) -> None:
    # What json.loads can still bear json.dumps may not, a few calls further down.
    nested = [b"[" * depth + b"]" * depth for depth in range(960, 1000)]
    requests = [b'{"do": "attach", "name": "demo", "replay": -5}']
    requests += [b'{"do": "send", "name": %b}' % value for value in nested]
    for request in requests:
        with Control(bridge.directory) as control:
            control.socket.sendall(request + b"\n")
            assert control.socket.recv(4096).startswith(b'{"ok": false'), request[:60]


def blocks_signals(pid: int) -> bool:
    """Does the main thread?"""
    status = Path(f"/proc/{pid}/status").read_text()
    return re.search(r"^SigBlk:\s*0+$", status, re.MULTILINE) is None


SLOW_DISK = """
import os, time
write = os.write
def slow(descriptor, data):
    if b" -- " in bytes(data[:64]):
        time.sleep(1)
    return write(descriptor, data)
os.write = slow
"""


def test_a_break_while_the_last_log_is_written(
    filed: Filed, user: User, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consoles have ended by then, and the next process is not there yet."""
    (directory / "sitecustomize.py").write_text(SLOW_DISK)
    (directory / "sitecustomize.py").chmod(0o644)
    monkeypatch.setitem(user.environment, "PYTHONPATH", str(directory))
    with Fake("flood") as vm:
        filed.write(console("vm", vm.url, "log = true"))
        with filed.bridge() as bridge:
            bridge.wait_message("vm: ONLINE")
            with Control(filed.run) as control, Control(filed.run) as other:
                control.ask("exec")
                request = b'{"do": "break", "name": "vm"}\n'
                other.socket.sendall(request)
                while other.socket.recv(4096):
                    other.socket.sendall(request)
            assert filed.names() == ["vm"]
            assert bridge.stop() == 0


def test_stops_that_follow_a_handover_are_for_the_next_process(filed: Filed) -> None:
    """Though a thread is there that takes signals, too."""
    with Fake("echo") as vm:
        url = vm.url.replace("127.0.0.1", "localhost")  # looked up by a thread
        many = "".join(console(f"c{number}", NOBODY) for number in range(100))
        filed.write(console("vm", url) + many)
        for _ in range(3):
            with filed.bridge() as bridge:
                bridge.wait_message("vm: (ONLINE|BUSY)")
                threads = Path(f"/proc/{bridge.process.pid}/task")
                assert len(os.listdir(threads)) > 1
                bridge.process.send_signal(signal.SIGUSR2)
                while not blocks_signals(bridge.process.pid):
                    pass  # what is aimed at lasts some milliseconds
                while len(os.listdir(threads)) > 1:  # up to the exec
                    bridge.process.send_signal(signal.SIGTERM)
                assert bridge.process.wait(20) == 0
