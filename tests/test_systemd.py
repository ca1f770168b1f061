"""Under a real ``systemd --user``: installed, started, ended, hardened.

Started by root for an ordinary user; without that, skipped loudly (tests/support/systemd).
"""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.systemd import UNIT, URL, UserManager, active, configure, install, kill
from tests.support.user import share
from tests.support.waiting import eventually


def test_install_now_runs_it_and_uninstall_ends_it(manager: UserManager) -> None:
    configure(manager, f'[consoles.vm1]\nurl = "{URL}"\n')
    out = install(manager, "--now")
    assert "started\n" in out
    assert "loginctl enable-linger\n" in out
    assert active(manager) == "active"
    assert manager.systemctl("is-enabled", UNIT) == "enabled\n"
    assert (manager.runtime / "ttybridge" / "vm1").is_symlink()
    pid = manager.pid()
    for words in (["--now"], []):
        out = install(manager, *words)
        assert "unchanged: " in out
        assert "running; to make it anew" in out
    assert manager.pid() == pid
    assert "removed " in install(manager, "--uninstall")
    assert active(manager) == "inactive"
    assert not (manager.runtime / "ttybridge" / "vm1").is_symlink()
    assert not (manager.home / ".config/systemd/user" / UNIT).exists()


def test_another_unit_is_taken_up_by_install_now(manager: UserManager) -> None:
    install(manager, "--now")
    other = configure(manager, f'[consoles.vm1]\nurl = "{URL}"\n').rename(
        manager.home / ".config" / "100% 'other' \"$HOME\".toml"
    )
    install(manager, "--now", "--config", str(other))
    assert active(manager) == "active"
    assert (manager.runtime / "ttybridge" / "vm1").is_symlink()


def test_an_installation_with_blanks_and_percent_signs_in_its_path(
    manager: UserManager, base: Path
) -> None:
    venv = manager.home / "a b %h $HOME é" / "venv"
    manager.run("mkdir", venv.parent)
    assert manager.run("python3", "-m", "venv", "--without-pip", venv).returncode == 0
    share(base, venv)
    # What stands in the home directory must not be taken for us.
    (manager.home / "bridge").mkdir()
    (manager.home / "bridge" / "__init__.py").write_text("raise SystemExit(1)")
    done = manager.run(venv / "bin" / "python", "-P", "-m", "bridge", "install", "--now")
    assert (done.returncode, done.stderr) == (0, "")
    command = Path(f"/proc/{manager.pid()}/cmdline").read_text().split("\0")
    assert command[0] == str(venv / "bin" / "python")


def test_the_status_tells_the_states(manager: UserManager) -> None:
    configure(manager, f'[consoles.vm1]\nurl = "{URL}"\n[consoles.vm2]\nurl = "{URL}"\n')
    install(manager, "--now")
    eventually(lambda: manager.show("StatusText") == "2 consoles: 2 waiting", limit=5)
    assert 'Status: "2 consoles: 2 waiting"' in manager.systemctl("status", UNIT)


def test_reload_takes_up_the_configuration(manager: UserManager) -> None:
    configure(manager, "")
    install(manager, "--now")
    pid = manager.pid()
    configure(manager, f'[consoles.vm1]\nurl = "{URL}"\n')
    manager.systemctl("reload", UNIT)
    link = manager.runtime / "ttybridge" / "vm1"
    eventually(link.is_symlink, limit=5)
    assert (active(manager), manager.pid()) == ("active", pid)


@pytest.mark.parametrize(
    ("broken", "code"), [("config", "78"), ("command", "2")], ids=["configuration", "usage"]
)
def test_what_does_not_mend_itself_is_not_tried_again(
    manager: UserManager, base: Path, broken: str, code: str
) -> None:
    configure(manager, "nonsense" if broken == "config" else "")
    install(manager)
    if broken == "command":
        command = f"{base}/venv/bin/python -m bridge --nonsense"
        manager.drop_in(f"[Service]\nExecStart=\nExecStart={command}\n")
    assert manager.run("systemctl", "--user", "start", UNIT).returncode == 1
    assert active(manager) == "failed"
    assert manager.show("ExecMainStatus") == code
    assert manager.show("NRestarts") == "0"


def test_one_that_is_killed_is_started_again(manager: UserManager) -> None:
    install(manager, "--now")
    kill(manager)
    assert manager.show("NRestarts") == "1"


@pytest.mark.long
def test_one_that_hangs_is_ended_and_started_again(manager: UserManager) -> None:
    install(manager)
    said = manager.home / "said"
    manager.drop_in(f"[Service]\nWatchdogSec=1\nStandardError=append:{said}\n")
    manager.systemctl("start", UNIT)
    pid = manager.pid()
    # It is well for longer than the limit.
    before = manager.show("WatchdogTimestampMonotonic")
    eventually(lambda: int(manager.show("WatchdogTimestampMonotonic")) > int(before) + 2_000_000)
    assert manager.pid() == pid
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: manager.pid() not in {0, pid} and active(manager) == "active")
    assert manager.show("NRestarts") == "1"
    assert "Fatal Python error: Aborted" in said.read_text()


def test_one_started_by_hand_is_left_in_peace(manager: UserManager) -> None:
    """The unit's start fails for as long; its clean-up must not take away the other's links."""
    install(manager)
    manager.drop_in("[Service]\nRestartSec=50ms\n[Unit]\nStartLimitBurst=3\n")
    process = manager.popen("ttybridge", "demo")
    link = manager.runtime / "ttybridge" / "demo"
    eventually(link.is_symlink)
    manager.run("systemctl", "--user", "start", UNIT)
    eventually(lambda: active(manager) == "failed")
    assert link.is_symlink()
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0
    manager.systemctl("reset-failed", UNIT)
    manager.systemctl("start", UNIT)


def test_the_hardening_is_there(manager: UserManager) -> None:
    install(manager, "--now")
    status = Path(f"/proc/{manager.pid()}/status").read_text()
    for line in ("Seccomp:\t2", "NoNewPrivs:\t1", "Umask:\t0077"):
        assert f"\n{line}\n" in status
    limits = Path(f"/proc/{manager.pid()}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
