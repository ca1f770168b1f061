"""The rules of these tests.

Real parts: PTYs, sockets, QEMU, screen.  The service and the tools run as an ordinary
user, never as root.  Loopback only; every port is a free one.  No test sleeps to wait for
something: it waits for the event, or looks again and again with a limit.  Every test has
an absolute time limit (pyproject.toml).  What a machine lacks is skipped with a loud
reason, but nothing may be skipped where CI=true.
"""

import os
import shutil
import signal
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.fake import Fake
from tests.support.qemu import Qemu
from tests.support.systemd import UserManager
from tests.support.user import REPOSITORY, User, install, make_base
from tests.support.websocket import Service

TOOLS = ["qemu-system-x86_64", "screen", "minicom", "picocom", "tio", "socat", "nc", "tmux"]
SHELLS = ["bash", "zsh", "fish"]
TELNETS = ["telnet", "telnet-ssl", "busybox", "plink"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="every repetition and long wait")


def pytest_configure(config: pytest.Config) -> None:
    # The service heeds HUP unless it is started with HUP ignored, as under nohup(1).
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # No deadline for a single example: the machine may be busy.
    busy = [HealthCheck.too_slow]
    settings.register_profile("short", deadline=None, suppress_health_check=busy)
    settings.register_profile(
        "long", deadline=None, suppress_health_check=busy, max_examples=10_000
    )
    settings.load_profile("long" if config.getoption("--long") else "short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        chosen = [item for item in items if item.get_closest_marker("long") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.skipped and os.environ.get("CI") == "true":  # type: ignore[attr-defined]
        report.outcome = "failed"  # type: ignore[attr-defined]
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"  # type: ignore[attr-defined]
    return report


_figures: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("figures")
        for line in _figures:
            terminalreporter.write_line(line)


@pytest.fixture
def figure() -> Callable[..., None]:
    """Report how much something took or lost, each time; printed at the end, never judged."""

    def report(what: str, figures: list[float], unit: str = "s") -> None:
        median, most = statistics.median(figures), max(figures)
        _figures.append(
            f"{what}: median {median:.2f} {unit}, most {most:.2f} {unit} of {len(figures)}"
        )

    return report


@pytest.fixture(scope="session")
def repetitions(request: pytest.FixtureRequest) -> int:
    """How often a scenario that must never fail is repeated."""
    return 20 if request.config.getoption("--long") else 3


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A directory for everybody, with ttybridge installed in ``venv``."""
    directory = make_base()
    try:
        install(directory)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def user(base: Path) -> User:
    """Whom everything runs as."""
    user = User("games", base)
    probe = user.run(["ttybridge", "--version"])
    assert probe.returncode == 0, f"user {user.uid} can't run ttybridge: {probe.stderr}"
    return user


@pytest.fixture(scope="session")
def intruder(base: Path) -> User:
    """Another user of the same machine."""
    if os.geteuid() != 0:
        pytest.skip("a second user can only be played by root")
    return User("daemon", base)


@pytest.fixture
def directory(user: User, base: Path) -> Iterator[Path]:
    """A fresh directory that is the user's; short, as Unix sockets' paths must be."""
    path = base / f"t{next(_numbers)}"
    path.mkdir()
    user.own(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


_numbers = iter(range(1_000_000))


@pytest.fixture
def manager(user: User, directory: Path) -> Iterator[UserManager]:
    """The user's systemd."""
    with UserManager(user, directory) as manager:
        yield manager


@pytest.fixture
def bridge(user: User, directory: Path) -> Iterator[Bridge]:
    """A service with the built-in console, booted and at its prompt."""
    with Bridge(user, directory / "run", command="demo") as bridge:
        bridge.wait_message("ONLINE")
        with Client(bridge.raw) as client:
            client.sync()  # past the boot
        yield bridge


@pytest.fixture
def echo(user: User, directory: Path) -> Iterator[Service]:
    """A service with a websocket port and one console, of a VM that echoes."""
    with Fake("echo") as vm, Service(user, directory, vm.url) as service:
        yield service


@pytest.fixture(scope="session")
def tools() -> None:
    missing = [tool for tool in TOOLS + TELNETS + SHELLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {' '.join(missing)} (contrib/check as root installs them)")


@pytest.fixture(scope="session")
def linux(tools: None, base: Path) -> Path:
    """A directory with the kernel and the initramfs of the Linux guest."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttybridge" / "guest"
    built = subprocess.run(
        [REPOSITORY / "contrib" / "guest" / "linux", cache],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        pytest.skip(f"no Linux guest: {built.stderr.strip()}")
    shared = base / "guest"
    shutil.copytree(cache, shared)
    for file in shared.iterdir():
        file.chmod(0o644)
    return shared


@pytest.fixture
def boot(tools: None, user: User, directory: Path) -> Iterator["Boot"]:
    """Start VMs: ``boot("echo")``."""
    booted = Boot(user, directory)
    yield booted
    booted.end()


class Boot:
    def __init__(self, user: User, directory: Path) -> None:
        self._user, self._directory = user, directory
        self.running: list[Qemu] = []

    def __call__(self, guest: str, **options: Any) -> Qemu:
        place = self._directory / f"vm{len(self.running)}"
        place.mkdir()
        self._user.own(place)
        vm = Qemu(self._user, place, guest, **options)
        self.running.append(vm)
        return vm

    def end(self) -> None:
        for vm in self.running:
            if vm.process.poll() is None:
                vm.kill()
