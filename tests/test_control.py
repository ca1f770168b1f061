"""The control socket, spoken to as contrib/control.md says: with a bare socket and JSON."""

import base64
import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.fakeqmp import fake_qmp
from tests.support.qemu import free_port
from tests.support.user import REPOSITORY, User
from tests.support.waiting import eventually

DOCUMENT = (REPOSITORY / "contrib" / "control.md").read_text()

NOBODY = "ws://127.0.0.1:9"


class Lines:
    """A client made from the document alone; a context."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(directory / ".control"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, request: bytes | dict[str, Any]) -> dict[str, Any]:
        line = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.socket.sendall(line + b"\n")
        return self.answer()

    def answer(self) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):
            byte = self.socket.recv(1)  # no further than to the LF
            assert byte, f"closed after {line!r}"
            line += byte
        answer: dict[str, Any] = json.loads(line)
        return answer


@pytest.fixture
def vm() -> Iterator[Fake]:
    with Fake("echo") as fake:
        yield fake


@pytest.fixture
def service(user: User, directory: Path, vm: Fake) -> Iterator[Bridge]:
    """One console, ``vm1``, whose guest returns each byte."""
    with Bridge(user, directory / "run", f"vm1={vm.url}") as bridge:
        bridge.wait_message("ONLINE")
        yield bridge


@pytest.fixture(scope="module")
def lasting(user: User, base: Path) -> Iterator[Bridge]:
    """The same, for all tests that leave it as it was."""
    with Fake("echo") as vm, Bridge(user, user.directory("control"), f"vm1={vm.url}") as bridge:
        bridge.wait_message("ONLINE")
        yield bridge
        assert bridge.process.poll() is None


@pytest.fixture
def lines(lasting: Bridge) -> Iterator[Lines]:
    with Lines(lasting.directory) as lines:
        yield lines


# The document and the code.


def rows(heading: str, text: str = DOCUMENT) -> dict[str, str]:
    """The table whose first heading is ``heading``: field to type."""
    match = re.search(rf"^\| {heading} \|.*\n\|[-| ]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    assert match is not None, heading
    cells = [row.strip("| ").split(" | ") for row in match[1].splitlines()]
    return {name.strip("`"): kind for name, kind, *_ in cells}


def verbs() -> dict[str, str]:
    """The sections of the verbs."""
    parts = re.split(r"^### `(\w+)`$", DOCUMENT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def fits(value: object, kind: str) -> bool:
    """Is ``value`` what the document calls ``kind``?"""
    kinds = {
        "string": str,
        "number": (int, float),
        "boolean": bool,
        "object": dict,
        "list of objects": list,
    }
    first, _, null = kind.partition(" or ")
    if value is None:
        return null == "null"
    wanted = kinds[first]
    assert isinstance(wanted, type | tuple)
    return isinstance(value, wanted) and (isinstance(value, bool) == (first == "boolean"))


def fields(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every field of an object by its path, through lists too."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found[prefix + key] = inner
        for each in inner if isinstance(inner, list) else [inner]:
            if isinstance(each, dict) and key != "seconds":
                found |= fields(each, f"{prefix}{key}.")
    return found


def test_every_verb_is_documented_and_no_other(lines: Lines) -> None:
    answer = lines.ask({"do": "frobnicate"})
    assert answer["exit"] == 2
    known = re.fullmatch(r'do: found "frobnicate"; allowed: (.*)', answer["error"])
    assert known is not None
    assert sorted(known[1].split(", ")) == sorted(verbs())


def test_every_field_of_a_status_is_documented_with_its_type(
    user: User, directory: Path, vm: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = directory / "config.toml"
    config.write_text(
        f'[service]\nwebsocket = "auto"\n[consoles.vm1]\nurl = "{vm.url}"\nlog = true\nunix = true\n'
        f'qmp = "unix://{directory / "qmp"}"\n'
        'pty_readonly = true\nraw_readonly = "auto"\n[consoles.bare]\n'
        f'url = "{NOBODY}"\nraw = false\ntelnet = false\npty = false\n'
    )
    config.chmod(0o644)
    monkeypatch.setitem(user.environment, "XDG_STATE_HOME", str(directory / "state"))
    with (
        fake_qmp(user, directory / "qmp", (8, 2, 0)),
        Bridge(user, directory / "run", "--config", str(config)) as bridge,
    ):
        bridge.wait_message("vm1: ONLINE")
        eventually(lambda: bridge.status()["machine"])
        with Lines(bridge.directory) as lines, Client(bridge.raw) as client:
            client.type(b"k")
            client.read_until(b"k")
            answer = lines.ask({"do": "status"})
            assert list(answer) == ["ok", "service", "consoles"]
            documented = rows("`service` field")
            assert list(answer["service"]) == list(documented)
            assert all(fits(answer["service"][name], kind) for name, kind in documented.items())
            documented = rows("`consoles` field")
            assert [c["name"] for c in answer["consoles"]] == ["vm1", "bare"]
            full, bare = answer["consoles"]
            assert list(fields(full)) == list(documented)
            for console in answer["consoles"]:
                for name, value in fields(console).items():
                    assert fits(value, documented[name]), (name, value)
            states = set(re.findall(r"`([A-Z]+)`", DOCUMENT.split("| `state` |")[1].split("\n")[0]))
            assert set(full["seconds"]) == states
            nulls = {name for name, value in fields(bare).items() if value is None}
            assert nulls == {n for n, k in documented.items() if k.endswith("null")} - {
                "attachments.typed",
                "machine.state",
                "machine.qemu",
            }
            assert lines.ask({"do": "status", "name": "bare"})["consoles"][0]["name"] == "bare"


def test_the_other_answers_are_as_documented(user: User, directory: Path) -> None:
    config = directory / "config.toml"
    config.write_text("")
    config.chmod(0o644)
    with Bridge(user, directory / "run", "--config", str(config)) as bridge:
        eventually((bridge.directory / ".control").exists)
        with Lines(bridge.directory) as lines:
            added = lines.ask({"do": "add", "name": "x", "settings": {"url": NOBODY}})
            assert list(added) == ["ok", "console"]
            assert added["console"]["name"] == "x"
            refused = lines.ask({"do": "break", "name": "x"})
            assert "x: no BREAK: there is no way to send one; add '-qmp unix:" in refused["error"]
            assert lines.ask({"do": "remove", "name": "x"}) == {"ok": True}
            config.write_text(f'[consoles.y]\nurl = "{NOBODY}"')
            reloaded = lines.ask({"do": "reload"})
            assert list(reloaded) == ["ok", *rows("answer field", verbs()["reload"])]
            assert reloaded["added"] == ["y"]
            assert list(lines.ask({"do": "metrics"})) == ["ok", "text"]
            error = lines.ask({"do": "status", "name": "x"})
            assert list(error) == list(rows("error field"))
            assert lines.ask({"do": "exec"}) == {"ok": True}
            assert lines.socket.recv(1) == b""
        with Lines(bridge.directory) as lines:
            assert lines.ask({"do": "status"})["service"]["pid"] == bridge.process.pid


def test_the_documents_example_is_true(lines: Lines) -> None:
    example = re.search(r"UNIX-CONNECT:.*\n((?:\{.*\}\n)+)```", DOCUMENT)
    assert example is not None
    said = [json.loads(line) for line in example[1].splitlines()]
    for request, answer in zip(said[::2], said[1::2], strict=True):
        assert lines.ask(request) == answer
    lines.socket.sendall(b"it is the console")
    with lines.socket.makefile("rb") as stream:
        assert stream.read(17) == b"it is the console"


# What is asked wrongly.

DEEP = 2000
BAD = [
    (b"", "not a line of JSON"),
    (b"junk", "not a line of JSON"),
    (b"\xff\xfe\x00", "not a line of JSON"),
    (b"[" * 100_000, "not a line of JSON"),
    (b"9" * 5000, "not a line of JSON"),
    (b"null", 'an object with "do"'),
    (b"[]", 'an object with "do"'),
    (b"{}", 'an object with "do"'),
    (b'{"do": null}', "do: found null; allowed: status, metrics"),
    (b'{"do": ["status"]}', "do: found an array; allowed"),
    (b'{"do": {"status": 1}}', "do: found"),
    (b'{"do": "\\u001b[31m"}', r'do: found "\\u001b\[31m"'),
    (b'{"do": "attach"}', "name: found null; allowed: a string"),
    (b'{"do": "attach", "name": 7}', "name: found 7; allowed: a string"),
    (b'{"do": "attach", "name": "none"}', "no console 'none'"),
    (b'{"do": "attach", "name": "\\u001b\\ud800"}', r"no console '\\x1b\\ud800'"),
    (b'{"do": "attach", "name": "vm1", "replay": -1}', "replay: found -1; allowed: from 0 to"),
    (b'{"do": "attach", "name": "vm1", "replay": 262145}', "replay: found 262145"),
    (b'{"do": "attach", "name": "vm1", "replay": true}', "replay: found true; allowed: a whole"),
    (b'{"do": "attach", "name": "vm1", "replay": NaN}', "replay: found NaN"),
    (b'{"do": "attach", "name": "vm1", "notices": 1}', "notices: found 1; allowed: true or false"),
    (b'{"do": "attach", "name": "vm1", "readonly": "no"}', 'readonly: found "no"'),
    (b'{"do": "send", "name": "vm1"}', "data: found null"),
    (b'{"do": "send", "name": "vm1", "data": "?"}', "data: not base64"),
    (b'{"do": "send", "name": "vm1", "data": "\\u00e4\\u00e4\\u00e4\\u00e4"}', "data: not base64"),
    (b'{"do": "add", "name": "x", "settings": []}', "settings: found an array; allowed: an object"),
    (b'{"do": "add", "name": "x", "settings": {}}', "url"),
    (b'{"do": "add", "name": "x", "settings": {"url": 1}}', "url: found 1; allowed"),
    (b'{"do": "add", "name": "../x", "settings": {"url": "ws://h"}}', "not a name"),
    (
        b'{"do": "add", "name": "vm1", "settings": {"url": "ws://h"}}',
        "there is a console 'vm1' already",
    ),
    (b'{"do": "remove", "name": "x"}', "no console 'x'"),
    (b'{"do": "reload"}', "started without a configuration file"),
    (b'{"do": "x", "y": "' + b"z" * (1 << 20) + b'"}', "too long; allowed: 1048576 bytes"),
]


def test_wrong_requests_are_answered_in_one_line_and_harm_nothing(
    lasting: Bridge, lines: Lines
) -> None:
    for request, message in BAD:
        answer = lines.ask(request)
        assert answer["ok"] is False
        assert answer["exit"] in {1, 2, 78}
        assert re.search(message, answer["error"]), answer
        assert answer["error"].isprintable()
        assert len(answer["error"]) < 2000
    # As deep as JSON's parser goes, and a little less: where printing it may go too deep.
    for depth in range(900, 1000):
        inner = b"[" * depth + b"]" * depth
        for request in (
            b'{"do": %s}',
            b'{"do": "status", "name": %s}',
            b'{"do": "add", "name": "x", "settings": {"url": %s}}',
        ):
            answer = lines.ask(request % inner)
            assert re.search("deep|not a line of JSON", answer["error"])
    assert lines.ask({"do": "status"})["consoles"][0]["state"] == "ONLINE"
    assert lasting.process.poll() is None


def test_a_line_of_the_greatest_length_is_taken(lines: Lines) -> None:
    head, tail = b'{"do": "status", "x": "', b'"}'
    assert lines.ask(head + b"x" * ((1 << 20) - 1 - len(head + tail)) + tail)["ok"]


def test_requests_in_one_piece_and_in_many(lines: Lines) -> None:
    request = b'{"do": "status"}\n'
    lines.socket.sendall(request * 50)
    for _ in range(50):
        assert lines.answer()["ok"]
    for byte in request:
        lines.socket.sendall(bytes([byte]))
    assert lines.answer()["ok"]


def test_who_goes_in_the_middle_harms_nobody(lasting: Bridge) -> None:
    for sent in (b"", b'{"do": "sta', b'{"do": "status"}\n' * 2000):
        with Lines(lasting.directory) as lines, contextlib.suppress(OSError):
            lines.socket.setblocking(False)
            lines.socket.sendall(sent)
    with Lines(lasting.directory) as lines:
        assert lines.ask({"do": "status"})["ok"]


def test_another_user_is_refused(service: Bridge, intruder: User) -> None:
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        's.sendall(b\'{"do": "status"}\\n\'); print(s.recv(100))'
    )
    path = service.directory / ".control"
    assert path.stat().st_mode & 0o777 == 0o600
    done = intruder.run(["python", "-c", code, path])
    assert "PermissionError" in done.stderr
    # And were all modes wrong:
    for wrong in (service.directory.parent, service.directory, path):
        wrong.chmod(0o777)
    done = intruder.run(["python", "-c", code, path])
    assert (
        done.stdout == "b''\n"
        or "ConnectionResetError" in done.stderr
        or ("BrokenPipeError" in done.stderr)
    )
    service.wait_message(f"control socket: refused a client of uid {intruder.uid}")


# Attachments.


def attach(lines: Lines, name: str = "vm1", **options: object) -> socket.socket:
    request = {"do": "attach", "name": name, "replay": 0, "notices": False, **options}
    assert lines.ask(request) == {"ok": True}
    return lines.socket


def test_input_may_end_and_output_goes_on(lasting: Bridge, lines: Lines) -> None:
    stream = attach(lines)
    stream.sendall(b"to the end")
    stream.shutdown(socket.SHUT_WR)
    with Client(lasting.raw) as other:
        with stream.makefile("rb") as reader:
            assert reader.read(10) == b"to the end"
            other.type(b"more")
            assert reader.read(4) == b"more"
        lines.socket.close()
        eventually(lambda: len(lasting.status()["attachments"]) == 1)


def test_who_only_looks_on_types_nothing(lasting: Bridge, lines: Lines) -> None:
    stream = attach(lines, readonly=True)
    assert lasting.status()["attachments"][0]["writable"] is False
    sent = lasting.status()["bytes"]["to_guest"]
    stream.sendall(b"reboot\r")
    eventually(lambda: lasting.status()["bytes"]["refused"] == 7)
    assert lasting.status()["bytes"]["to_guest"] == sent


def test_replay_and_notices_are_as_asked(service: Bridge, vm: Fake) -> None:
    with Lines(service.directory) as lines:
        lines.ask({"do": "send", "name": "vm1", "data": base64.b64encode(b"past").decode()})
    eventually(lambda: service.status()["bytes"]["from_guest"] == 4)
    with Lines(service.directory) as told, Lines(service.directory) as untold:
        attach(told, replay=2, notices=True)
        attach(untold, replay=2)
        service.wait_attached(2)
        vm.kill()
        with told.socket.makefile("rb") as stream:
            assert stream.read(2) == b"st"
            assert stream.readline() == b"\r\n"
            assert stream.readline().startswith(b"[ttybridge: vm1 is waiting for ws://")
        vm.restart()
        service.wait_message("ONLINE", after=len(service.messages))
        with untold.socket.makefile("rb") as stream:
            untold.socket.sendall(b"k")
            assert stream.read(3) == b"stk"


def test_there_is_a_limit_to_attachments(lasting: Bridge) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(256):
            attach(stack.enter_context(Lines(lasting.directory)))
        one_more = stack.enter_context(Lines(lasting.directory))
        answer = one_more.ask({"do": "attach", "name": "vm1"})
        assert answer["error"] == "vm1: 256 are attached already"


def test_a_removed_console_ends_its_attachments_and_takes_no_more(
    user: User, directory: Path
) -> None:
    """Its upstream still takes its leave: a guest that floods and a client that comes then."""
    with (
        Fake("flood") as vm,
        Bridge(user, directory / "run", f"vm1={vm.url}", f"vm2={NOBODY}") as bridge,
    ):
        bridge.wait_message("vm1: ONLINE")
        vm.process.send_signal(signal.SIGSTOP)  # it will not see that it is left
        try:
            with Lines(bridge.directory) as one, Lines(bridge.directory) as other:
                stream = attach(one)
                other.socket.sendall(b'{"do": "remove", "name": "vm1"}\n')
                while stream.recv(1 << 16):
                    pass
                with Lines(bridge.directory) as late:
                    assert late.ask({"do": "attach", "name": "vm1"})["error"] == "no console 'vm1'"
                assert other.answer() == {"ok": True}
        finally:
            vm.process.send_signal(signal.SIGCONT)
        # The next process is not told of a client whose console it does not know.
        with Lines(bridge.directory) as lines, Lines(bridge.directory) as stayed:
            attach(stayed, "vm2")
            assert lines.ask({"do": "exec"})["ok"]
            assert lines.socket.recv(1) == b""  # from here on it is the next one
        with Lines(bridge.directory) as lines:
            names = [c["name"] for c in lines.ask({"do": "status"})["consoles"]]
            assert names == ["vm2"]


def test_a_handover_keeps_attachments(service: Bridge) -> None:
    with Lines(service.directory) as kept, Lines(service.directory) as lines:
        stream = attach(kept)
        stream.sendall(b"before ")
        assert lines.ask({"do": "exec"})["ok"]
        assert lines.socket.recv(1) == b""
        stream.sendall(b"after")
        with stream.makefile("rb") as reader:
            assert reader.read(12) == b"before after"


def test_send_says_how_much_was_sent(service: Bridge, vm: Fake) -> None:
    data = os.urandom(5000)
    text = base64.b64encode(data).decode()
    with Client(service.raw) as client, Lines(service.directory) as lines:
        service.wait_attached()
        assert lines.ask({"do": "send", "name": "vm1", "data": text}) == {"ok": True, "sent": 5000}
        assert client.read_exactly(5000) == data
        vm.kill()
        service.wait_message("WAITING")
        answer = lines.ask({"do": "send", "name": "vm1", "data": text})
        assert re.fullmatch(r"vm1 is WAITING \(.+\): 0 of 5000 bytes sent", answer["error"])
        assert answer["exit"] == 1


def test_a_port_in_use_is_said(lines: Lines) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        settings = {"url": NOBODY, "raw": taken.getsockname()[1]}
        answer = lines.ask({"do": "add", "name": "x", "settings": settings})
    assert answer["exit"] == 1
    assert "in use by another program" in answer["error"]
    assert lines.ask({"do": "status", "name": "x"})["ok"] is False
