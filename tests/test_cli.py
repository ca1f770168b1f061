"""The command line as a contract: words in, lines and exit codes out.  No traceback, ever."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.bridge import Bridge
from tests.support.qemu import free_port
from tests.support.user import User
from tests.support.waiting import eventually

URL = "ws://127.0.0.1:1"  # nobody listens there


def write(directory: Path, text: str) -> str:
    file = directory / "config.toml"
    file.write_text(text)
    file.chmod(0o644)
    return str(file)


def refused(user: User, *arguments: str | Path) -> tuple[int, str]:
    """Run a command that must fail with one line on stderr and nothing on stdout."""
    done = user.run(["ttybridge", *arguments])
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("ttybridge: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr


def test_json_tells_all_places_and_nothing_more(user: User, directory: Path) -> None:
    port = free_port()
    with Bridge(user, directory / "run", f"vm1={URL}", "--raw", str(port), "--telnet", "0") as b:
        assert b.places == [
            {
                "name": "vm1",
                "state": "CONNECTING",
                "url": URL,
                "pty": os.readlink(b.link),
                "link": str(directory / "run" / "vm1"),
                "raw": f"127.0.0.1:{port}",
                "telnet": None,
                "unix": None,
            }
        ]
        b.wait_message("^vm1: WAITING: connection refused$")
        assert b.stop() == 0
        assert b.process.stdout is not None
        assert b.process.stdout.read() == b""


def table(user: User, words: Sequence[str | Path], environment: Mapping[str, str] = {}) -> str:
    """What a service prints that is ended as soon as it has said something."""
    process = user.popen(words, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=10)[0].decode()
    assert process.returncode == 0
    return out


def test_the_table_has_lines_ready_to_paste(user: User, directory: Path) -> None:
    consoles = (f"vm1={URL}", f"two={URL}")
    out = table(user, ["ttybridge", "run", *consoles, "--runtime-dir", directory / "run"])
    assert re.search(r"^NAME +PTY +RAW +TELNET +UPSTREAM$", out, re.MULTILINE)
    for name in ("vm1", "two"):
        assert re.search(
            rf"^{name} +/dev/pts/\d+( +127\.0\.0\.1:\d+){{2}} +{URL}$", out, re.MULTILINE
        )
        assert f"  screen {directory}/run/{name}\n" in out
    assert len(re.findall(r"^  telnet 127\.0\.0\.1 \d+$", out, re.MULTILINE)) == 2
    assert len(re.findall(r"^  socat -,rawer,escape=0x1d TCP:127", out, re.MULTILINE)) == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_ends_it_with_nothing_left(
    user: User, directory: Path, how: signal.Signals
) -> None:
    config = write(directory, f'[consoles.vm]\nurl = "{URL}"\nunix = true')
    with Bridge(user, directory / "run", "--config", config) as bridge:
        unix = Path(bridge.places[0]["unix"])
        assert bridge.link.is_symlink()
        assert unix.is_socket()
        assert bridge.stop(how) == 0
        assert not bridge.link.is_symlink()
        assert not unix.exists()


def test_path_prints_the_link_of_a_running_console(user: User, directory: Path) -> None:
    run = directory / "run"
    with Bridge(user, run, f"vm1={URL}") as bridge:
        bridge.places  # noqa: B018 (waits for the start)
        done = user.run(["ttybridge", "path", "vm1", "--runtime-dir", run])
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{run}/vm1\n", "")
        code, message = refused(user, "path", "vm2", "--runtime-dir", run)
        assert code == 1
        assert "no console 'vm2'" in message
        # A link that a killed service left behind leads to somebody else's terminal.
        bridge.process.kill()
        bridge.process.wait()
        assert bridge.link.is_symlink()
        assert refused(user, "path", "vm1", "--runtime-dir", run)[0] == 1
    assert refused(user, "path", "../../etc/passwd", "--runtime-dir", run)[0] == 1


def test_path_prints_nothing_but_links_of_consoles(user: User, directory: Path) -> None:
    run = directory / "run"
    with Bridge(user, run, f"vm1={URL}") as bridge:
        bridge.places  # noqa: B018 (waits for the start)
        for name in ("/etc/mtab", "../../../../proc/self", "../run/vm1", "a" * 300, ".lock"):
            assert refused(user, "path", name, "--runtime-dir", run)[0] == 1
        assert refused(user, "path", "vm1", "--runtime-dir", "")[0] == 2
        assert refused(user, "path", "vm1", "--runtime-dir", "/root/x")[0] == 1
    odd = os.fsdecode(bytes(directory / "r") + b"\xff")
    with Bridge(user, Path(odd), f"vm1={URL}") as bridge:
        bridge.places  # noqa: B018
        code = f'test -L "$(ttybridge path vm1 --runtime-dir {shlex.quote(odd)})"'
        assert user.run(["sh", "-c", code]).returncode == 0


def test_what_is_not_ours_is_neither_replaced_nor_removed(user: User, directory: Path) -> None:
    """The directory may be any one: the user's disk images, say, called as their VMs."""
    run = directory / "run"
    run.mkdir(0o700)
    user.own(run)
    (run / "vm1").write_text("an image")
    code, message = refused(user, "run", f"vm1={URL}", "--runtime-dir", run)
    assert code == 1
    assert f"no PTY: {run}/vm1 is there, and no link of a ttybridge" in message
    assert (run / "vm1").read_text() == "an image"
    with Bridge(user, run, f"vm2={URL}") as bridge:
        bridge.link.unlink()
        bridge.link.write_text("another")
        assert bridge.stop() == 0
    assert (run / "vm2").read_text() == "another"


def test_a_directory_that_was_made_anew_is_the_newer_services(user: User, directory: Path) -> None:
    """As at logout and login, while a service lives on under nohup."""
    run = directory / "run"
    config = write(directory, f'[consoles.vm1]\nurl = "{URL}"\nunix = true')
    with Bridge(user, run, "--config", config) as older:
        older.places  # noqa: B018
        shutil.rmtree(run)
        with Bridge(user, run, "--config", config) as newer:
            newer.places  # noqa: B018
            older.process.send_signal(signal.SIGUSR2)
            older.wait_message("not handed over: .* has been removed")
            assert older.stop() == 0
            done = user.run(["ttybridge", "path", "vm1", "--runtime-dir", run])
            assert done.stdout == f"{run}/vm1\n"
            assert user.run(["ttybridge", "status", "--runtime-dir", run]).returncode == 0
            assert (run / ".unix" / "vm1").is_socket()


def test_what_a_killed_service_left_is_swept(user: User, directory: Path) -> None:
    config = write(directory, f'[consoles.old]\nurl = "{URL}"\nunix = true')
    with Bridge(user, directory / "run", "--config", config) as killed:
        killed.places  # noqa: B018
        killed.process.kill()
        killed.process.wait()
    with Bridge(user, directory / "run", f"new={URL}") as bridge:
        assert bridge.link.is_symlink()
        assert not killed.link.is_symlink()
        assert list((directory / "run" / ".unix").iterdir()) == []


def test_default_runtime_directory_and_configuration(user: User, directory: Path) -> None:
    """$XDG_RUNTIME_DIR, else what is the user's own; never /tmp."""
    home = directory / "home"
    (home / ".config" / "ttybridge").mkdir(parents=True)
    user.own(home)
    write(home / ".config" / "ttybridge", f'[consoles.vm]\nurl = "{URL}"')
    for path in home.rglob("*"):
        path.chmod(0o755)
    for runtime, expected in [(str(directory), directory / "ttybridge"), ("", None)]:
        env = {"HOME": str(home), "XDG_RUNTIME_DIR": runtime}
        process = user.popen(
            ["ttybridge", "run", "--json"], env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()
        link = Path(json.loads(line)["link"])
        assert user.run(["ttybridge", "path", "vm"], env=env).stdout == f"{link}\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert link.parent == (expected or home / ".local/state/ttybridge/run")


def test_a_second_service_is_refused_and_names_the_first(user: User, directory: Path) -> None:
    with Bridge(user, directory / "run", f"vm={URL}") as bridge:
        bridge.places  # noqa: B018
        code, message = refused(user, "run", f"x={URL}", "--runtime-dir", directory / "run")
        assert code == 1
        assert f"pid {bridge.process.pid}" in message
        assert "ttybridge add" in message
        assert bridge.link.is_symlink()


def test_a_port_in_use(user: User, directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, message = refused(
            user, "run", f"vm={URL}", "--raw", str(port), "--runtime-dir", directory / "run"
        )
    assert code == 1
    assert f"vm: port 127.0.0.1:{port} is in use" in message
    assert not (directory / "run" / "vm").is_symlink()


def test_a_directory_that_will_not_do(user: User, directory: Path, base: Path) -> None:
    shared = directory / "shared"
    shared.mkdir()
    user.own(shared)
    shared.chmod(0o777)
    code, message = refused(user, "run", f"vm={URL}", "--runtime-dir", shared)
    assert code == 1
    assert "writable by others" in message
    if user.other:
        code, message = refused(user, "run", f"vm={URL}", "--runtime-dir", base / "none")
        assert code == 1
        assert "Permission denied" in message
        code, message = refused(user, "run", f"vm={URL}", "--runtime-dir", base)
        assert (code, "belongs to uid 0" in message) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "vm=http://h"], "console 'http://h': scheme 'http' is not known; allowed: ws"),
        (["run", "vm1"], "console 'vm1': no URL; allowed: URL or NAME=URL, as vm1=ws://127.0.0.1"),
        (["run", "localhost:4555"], "console 'localhost:4555': no URL; ws://localhost:4555 is one"),
        (["run", "vm1=h:1"], "console 'h:1': "),
        (["run", "ws://h:99999"], "console 'ws://h:99999': Port out of range"),
        (["run", f"a b={URL}"], "console 'a b': not a name; allowed: 1 to 64"),
        (["run", f"vm={URL}", f"vm={URL}"], "two consoles are named 'vm'"),
        (["run", f"vm={URL}", "--raw", "x"], "argument --raw: found 'x'; allowed: a port"),
        (["run", f"vm={URL}", "--telnet", "70000"], "argument --telnet: found '70000'"),
        (["run", f"vm={URL}", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_wrong_command_line(user: User, arguments: list[str], message: str) -> None:
    code, said = refused(user, *arguments)
    assert code == 2
    assert message in said


def test_a_wrong_or_missing_configuration(user: User, directory: Path) -> None:
    file = write(directory, f'[consoles.vm]\nurl = "{URL}"\nspeed = 9600\n')
    for command in (["check", file], ["run", "--config", file]):
        code, message = refused(user, *command)
        assert code == 78
        assert f"{file}: consoles.vm.speed: unknown key; allowed: url, raw, telnet, unix" in message
    none = str(directory / "none.toml")
    for command in (["check", none], ["run", "--config", none], ["check"]):
        assert refused(user, *command)[0] == 78


def test_check_says_that_a_file_is_good(user: User, directory: Path) -> None:
    file = write(directory, f'[consoles.vm]\nurl = "{URL}"\n')
    assert user.run(["ttybridge", "check", file]).stdout == f"{file}: good, 1 console\n"


def test_nothing_to_run_gives_three_hints(user: User) -> None:
    done = user.run(["ttybridge", "run"])
    assert done.returncode == 1
    assert done.stdout == ""
    for hint in ("ttybridge demo", "ttybridge run vm1=ws://127.0.0.1:4555", ".config/ttybridge/"):
        assert hint in done.stderr


def test_a_file_without_consoles_runs(user: User, directory: Path) -> None:
    process = user.popen(
        ["ttybridge", "run", "--config", write(directory, ""), "--runtime-dir", directory / "run"],
        stdout=subprocess.PIPE,
    )
    lock = directory / "run" / ".lock"
    eventually(lambda: lock.exists() and lock.read_text().strip() == str(process.pid))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_nobody_reads_the_announcement(user: User, directory: Path) -> None:
    """`ttybridge run ... | head -0`: the consoles are served all the same."""
    read, write_ = os.pipe()
    os.close(read)
    process = user.popen(
        ["ttybridge", "run", f"vm={URL}", "--runtime-dir", directory / "run"],
        stdout=write_,
        stderr=subprocess.PIPE,
    )
    os.close(write_)
    stop_when_waiting(process)


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_the_announcement_cannot_be_written(user: User, directory: Path, redirection: str) -> None:
    command = f"exec ttybridge run vm={URL} --runtime-dir {directory}/run {redirection}"
    stop_when_waiting(user.popen(["sh", "-c", command], stderr=subprocess.PIPE))


def stop_when_waiting(process: "subprocess.Popen[bytes]") -> None:
    assert process.stderr is not None
    lines = b""
    while b"vm: WAITING: connection refused\n" not in lines:
        line = process.stderr.readline()
        assert line, lines
        lines += line
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=10)
    assert (process.returncode, b"Traceback" in lines + rest) == (0, False)


def test_a_host_name_that_cannot_be(user: User, directory: Path) -> None:
    with Bridge(user, directory / "run", "vm=ws://a..b:4555") as bridge:
        bridge.wait_message("vm: WAITING: host name[^0]*$")


def test_a_port_that_was_not_named_is_told(user: User, directory: Path) -> None:
    with Bridge(user, directory / "run", "vm=ws://a..b") as bridge:
        bridge.wait_message(r"vm: WAITING: host name.* \(port 80, for the URL names none\)$")


def test_help_and_version(user: User) -> None:
    assert user.run(["ttybridge", "--version"]).stdout == "ttybridge 0.1.0\n"
    assert user.run(["python", "-m", "bridge", "--version"]).stdout == "ttybridge 0.1.0\n"
    shown = user.run(["ttybridge", "--help"])
    assert shown.returncode == 0
    for command in ("run", "demo", "path", "check"):
        assert re.search(rf"^ +{command} ", shown.stdout, re.MULTILINE)
    said = user.run(["ttybridge", "break", "--help"]).stdout
    assert "\nSend a BREAK to a console.\n" in said


def test_who_has_no_ttybridge_in_the_path_is_shown_where_it_is(
    user: User, base: Path, directory: Path
) -> None:
    program = base / "venv" / "bin" / "ttybridge"
    words = f"{program} demo --runtime-dir {directory}/run"
    out = table(user, words.split(), {"PATH": "/usr/bin:/bin"})
    assert f"\n  {program} attach demo --runtime-dir {directory}/run\n" in out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("check /nonexistent 2>/dev/full", 78),
        ("bogus 2>/dev/full", 2),
        ("check /nonexistent 2>&-", 78),
        ("install --print >&-", 1),
        ("--help >/dev/full", 1),
        ("install --print >/dev/full", 1),
    ],
)
def test_the_exit_code_is_right_though_nothing_can_be_said(
    user: User, words: str, code: int
) -> None:
    for unbuffered in ("", "1"):
        done = user.run(["sh", "-c", f"PYTHONUNBUFFERED={unbuffered} ttybridge {words}"])
        assert (done.returncode, done.stdout) == (code, "")
        assert "Traceback" not in done.stderr


def test_check_looks_at_the_token_too(user: User, directory: Path) -> None:
    text = f'[service]\nwebsocket_token = {{ file = "{directory}/none" }}'
    code, message = refused(user, "check", write(directory, text))
    assert code == 78
    assert f"websocket token {directory}/none: No such file" in message


def test_demo_needs_nothing(user: User, directory: Path) -> None:
    with Bridge(user, directory / "run", command="demo") as bridge:
        bridge.wait_message("^demo: ONLINE$")
        assert bridge.places[0]["name"] == "demo"
