"""VMs come and go beside a service that only notes what it is told; real QEMUs, real time."""

import logging
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from bridge.base.errors import StartError
from bridge.service.opening import open_service
from bridge.service.service import Service
from bridge.settings.config import ConsoleSettings
from bridge.settings.url import UpstreamUrl
from bridge.vms.discovery import Found, Kernel, Slot, consoles
from bridge.vms.vms import Vm, Vms
from bridge.vms.watch import INTERVAL, SETTLING, Discovery
from tests.support.machine import BARE, Machine
from tests.support.qemu import SECTORS, free_port
from tests.support.user import User

ANY = "server=on,wait=off"


class Notes:
    """A service in name only: it connects to nothing."""

    changing = False

    def __init__(self) -> None:
        self.bridged: dict[str, ConsoleSettings] = {}
        self.told: list[str] = []
        self.refuse = False
        self._news = trio.Event()

    @property
    def settings(self) -> Collection[ConsoleSettings]:
        return self.bridged.values()

    def add(self, settings: ConsoleSettings) -> None:
        self._tell(f"add {settings.name} {settings.url}")
        if self.refuse:
            raise StartError("no room")
        self.bridged[settings.name] = settings

    async def remove(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        self._tell(f"remove {name}")
        del self.bridged[name]

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self._news.set()
        self._news = trio.Event()

    async def wait(self, *told: str) -> None:
        with trio.move_on_after(30):
            while set(told) - set(self.told):
                await self._news.wait()
        assert set(told) <= set(self.told)


class Lab:
    """Starts QEMUs, and lets a Discovery see no others: the machine may have some."""

    def __init__(self, user: User, directory: Path) -> None:
        self._user, self._directory = user, directory
        self.running: list[subprocess.Popen[bytes]] = []
        self.machines: list[Machine] = []

    def start(self, *words: str, stopped: bool = True) -> "subprocess.Popen[bytes]":
        """Start a QEMU; does not wait for it."""
        bare = BARE if stopped else BARE[:-1]
        process = self._user.popen(
            ["qemu-system-x86_64", *bare, *words],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.running.append(process)
        return process

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait()

    def only_ours(self, discovery: Discovery) -> None:
        vms = discovery._vms  # noqa: SLF001
        real: Callable[[], list[Vm]] = vms.look
        vms.look = lambda: [  # type: ignore[method-assign]
            vm for vm in real() if vm.process.pid in {p.pid for p in self.running}
        ]


@pytest.fixture
async def lab(tools: None, user: User, directory: Path) -> AsyncIterator[Lab]:
    lab = Lab(user, directory)
    yield lab
    for process in lab.running:
        if process.poll() is None:
            lab.kill(process)


@asynccontextmanager
async def watching(lab: Lab, notes: Notes) -> AsyncIterator[Discovery]:
    discovery = Discovery(notes)
    lab.only_ours(discovery)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(discovery.run)
        await trio.testing.wait_all_tasks_blocked()
        yield discovery
        nursery.cancel_scope.cancel()


def serial(port: int) -> tuple[str, str]:
    return "-serial", f"websocket:127.0.0.1:{port},{ANY}"


async def test_two_vms_come_one_is_replaced_by_another(
    lab: Lab, figure: Callable[[str, list[float]], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Each within a second, and the replacement is recognised."""
    caplog.set_level(logging.INFO, "ttybridge")
    one, two = free_port(), free_port()
    notes, took = Notes(), []
    async with watching(lab, notes):
        began = trio.current_time()
        first = lab.start("-name", "one", *serial(one))
        lab.start("-name", "two", *serial(two), "-monitor", f"tcp::0,{ANY}")
        await notes.wait(f"add one ws://127.0.0.1:{one}", f"add two ws://127.0.0.1:{two}")
        took.append(trio.current_time() - began)
        lab.kill(first)
        began = trio.current_time()
        third = lab.start("-name", "three", *serial(one))
        await notes.wait("remove one", f"add three ws://127.0.0.1:{one}")
        took.append(trio.current_time() - began)
        assert len(notes.told) == 4
        # The same VM, started again, keeps its console.
        lab.kill(third)
        began = trio.current_time()
        again = lab.start("-name", "three", *serial(one))
        with trio.fail_after(30):
            while not any("started again" in message for message in caplog.messages):
                await trio.sleep(0.02)
        took.append(trio.current_time() - began)
        assert f"three: started again at ws://127.0.0.1:{one} (VM three, pid {again.pid})" in (
            caplog.messages
        )
        assert len(notes.told) == 4
    figure("a VM's start until it is bridged", took)


async def test_a_console_that_another_client_holds_is_let_be(lab: Lab) -> None:
    port, other = free_port(), free_port()
    notes = Notes()
    lab.start("-name", "vm", *serial(port))
    stream = None
    with trio.fail_after(30):
        while stream is None:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                await trio.sleep(0.02)
    # Our own process would not count as another.
    await stream.aclose()
    with nc_to(port) as nc:
        with trio.fail_after(30):
            while not held(lab):
                await trio.sleep(0.02)
        async with watching(lab, notes):
            # A second VM shows that looks have been taken.
            lab.start("-name", "other", *serial(other))
            await notes.wait(f"add other ws://127.0.0.1:{other}")
            assert len(notes.told) == 1
            nc.kill()
            await notes.wait(f"add vm ws://127.0.0.1:{port}")


def held(lab: Lab) -> bool:
    pids = {process.pid for process in lab.running}
    found: list[Found] = []
    for vm in Vms().look():
        if vm.process.pid in pids:
            found += consoles(vm, Kernel())
    return any(f.slot is Slot.HELD for f in found)


async def test_free_ports_are_asked_for_by_qmp(lab: Lab, directory: Path) -> None:
    """Two of them: which is which, the order of descriptors only suggests."""
    notes = Notes()
    qmp = directory / "qmp"
    async with watching(lab, notes) as discovery:
        lab.start("-name", "vm", *serial(0), *serial(0), "-qmp", f"unix:{qmp},{ANY}")
        with trio.fail_after(30):
            while not (seen := [s for s in discovery._seen.values() if s.vm.told]):  # noqa: SLF001
                await trio.sleep(0.02)
            while len(notes.bridged) < 2:
                await trio.sleep(0.02)
        told = seen[0].vm.told
        assert told is not None
        ports = {row.label: row.socket.port for row in told.chardevs if row.socket}
        assert {name: str(s.url) for name, s in notes.bridged.items()} == {
            "vm": f"ws://127.0.0.1:{ports['serial0']}",
            "vm-serial1": f"ws://127.0.0.1:{ports['serial1']}",
        }


async def test_one_that_cannot_be_bridged_is_said_once(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ttybridge")
    port, other = free_port(), free_port()
    notes = Notes()
    notes.refuse = True
    async with watching(lab, notes):
        lab.start("-name", "vm", *serial(port))
        await notes.wait(f"add vm ws://127.0.0.1:{port}")
        notes.refuse = False
        lab.start("-name", "other", *serial(other))
        await notes.wait(f"add other ws://127.0.0.1:{other}")
    assert len(notes.told) == 2
    assert caplog.messages.count("vm: not bridged: no room") == 1


async def test_explicit_settings_win(lab: Lab) -> None:
    port, other = free_port(), free_port()
    notes = Notes()
    notes.bridged["mine"] = ConsoleSettings("mine", UpstreamUrl.parse(f"ws://localhost:{port}"))
    async with watching(lab, notes):
        lab.start("-name", "vm", *serial(port))
        lab.start("-name", "other", *serial(other))
        await notes.wait(f"add other ws://127.0.0.1:{other}")
        del notes.bridged["mine"]
        await notes.wait(f"add vm ws://127.0.0.1:{port}")


def nc_to(port: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["nc", "127.0.0.1", str(port)], stdin=subprocess.PIPE)


class Real:
    """The service itself, as Discovery is to see it."""

    changing = False

    def __init__(self, service: Service) -> None:
        self._service = service
        self.add = service.add
        self.remove = service.remove

    @property
    def settings(self) -> Collection[ConsoleSettings]:
        return [console.settings for console in self._service.consoles.values()]


@pytest.mark.parametrize("kind", ["websocket", "tcp", "unix"])
async def test_with_the_service_itself(lab: Lab, user: User, directory: Path, kind: str) -> None:
    """A VM's echo through its raw port; then another VM's, at the same place, by its name."""
    place = f"unix:{directory}/serial" if kind == "unix" else f"{kind}:127.0.0.1:{free_port()}"
    with open_service([], directory / "run") as service:
        discovery = Discovery(Real(service))
        lab.only_ours(discovery)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.run, lambda: None)
            nursery.start_soon(discovery.run)
            for name in ("one", "two"):
                vm = lab.start(
                    *echo(user, directory),
                    "-name",
                    name,
                    "-serial",
                    f"{place},{ANY}",
                    stopped=False,
                )
                with trio.fail_after(30):
                    while (console := service.consoles.get(name)) is None:
                        await trio.sleep(0.02)
                    assert console.place.raw is not None
                    await until_echo(console.place.raw)
                    while [*service.consoles] != [name]:
                        await trio.sleep(0.02)
                lab.kill(vm)
            nursery.cancel_scope.cancel()


def echo(user: User, directory: Path) -> list[str]:
    sector = directory / "echo.img"
    sector.write_bytes(bytes.fromhex(SECTORS["echo"]).ljust(510, b"\0") + b"\x55\xaa")
    sector.chmod(0o644)
    return ["-drive", f"format=raw,file={sector},if=ide,snapshot=on"]


async def until_echo(raw: str) -> None:
    host, _, port = raw.rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        while True:
            await stream.send_all(b"x")
            with trio.move_on_after(0.2):
                if b"x" in await stream.receive_some():
                    return


@contextmanager
def sleepers(count: int) -> Iterator[None]:
    started = [subprocess.Popen(["sleep", "600"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.long
async def test_watching_costs_little(lab: Lab, figure: Callable[[str, list[float]], None]) -> None:
    """Beside 300 processes and two VMs; the bar is 0.2 % of a core."""
    ports = free_port(), free_port()
    notes = Notes()
    with sleepers(300):
        async with watching(lab, notes) as discovery:
            for port in ports:
                lab.start("-name", f"vm{port}", *serial(port))
            await notes.wait(*(f"add vm{p} ws://127.0.0.1:{p}" for p in ports))
            with trio.fail_after(30):
                while any(seen.looks <= SETTLING for seen in discovery._seen.values()):  # noqa: SLF001
                    await trio.sleep(INTERVAL)
            cpu, began = time.process_time(), trio.current_time()
            await trio.sleep(30)
            share = (time.process_time() - cpu) / (trio.current_time() - began)
    figure("CPU seconds in 100 s of watching, beside 300 processes and two VMs", [100 * share])
    assert share < 0.01  # far from the figure: the machine may be busy
