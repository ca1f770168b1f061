"""Which consoles are bridged unasked: decisions, without a VM and without a clock."""

import pytest

from bridge.settings.config import ConsoleSettings
from bridge.settings.url import TcpAddress, UpstreamUrl
from bridge.vms.discovery import Found, Slot
from bridge.vms.locate import Listener
from bridge.vms.processes import Process
from bridge.vms.qemuargs import Chardev
from bridge.vms.roster import GRACE, Change, Roster

Told = list[tuple[str, str]]


def console(
    vm: str,
    port: int,
    pid: int = 1,
    *,
    number: int | None = 0,
    chardev: str = "c",
    slot: Slot = Slot.FREE,
    own: bool = True,
    listening: bool = True,
) -> Found:
    address = TcpAddress("127.0.0.1", port)
    return Found(
        vm,
        number,
        Chardev(chardev, None),
        f"ws://{address}",
        Process(pid, pid, ()),
        None,
        Listener(port, address, "127.0.0.1") if listening else None,
        slot,
        (),
        own,
    )


class Service:
    """What is bridged; does what the roster says, and tells it in short."""

    def __init__(self, former: tuple[str, ...] = (), **explicit: str) -> None:
        self.roster = Roster(former)
        self.bridged = {n: ConsoleSettings(n, UpstreamUrl.parse(u)) for n, u in explicit.items()}

    def look(self, *found: Found, now: float = 0) -> Told:
        news = self.roster.update(found, list(self.bridged.values()), now)
        for item in news:
            if item.change is Change.GONE:
                del self.bridged[item.name]
            if item.change is Change.APPEARED:
                assert item.name not in self.bridged
                assert item.found is not None
                url = UpstreamUrl.parse(item.found.url)
                self.bridged[item.name] = ConsoleSettings(item.name, url)
        return [(item.change.value, item.name) for item in news]


def test_a_vm_comes_and_goes() -> None:
    service = Service()
    assert service.look() == []
    assert service.look(console("vm1", 1)) == [("appeared", "vm1")]
    assert service.look(console("vm1", 1)) == []
    assert service.look(now=10) == []
    assert service.look(now=10 + GRACE - 0.1) == []
    assert service.look(now=10 + GRACE) == [("gone", "vm1")]
    assert service.look(now=10 + GRACE) == []


def test_one_that_is_back_in_time_stays() -> None:
    """The same VM, started again: its terminals stay attached."""
    service = Service()
    service.look(console("vm1", 1, pid=1))
    service.look(now=10)
    assert service.look(console("vm1", 1, pid=2), now=10 + GRACE - 0.1) == [("replaced", "vm1")]
    assert service.look(console("vm1", 1, pid=2), now=100) == []


def test_another_vm_on_the_same_port_is_another_console() -> None:
    service = Service()
    service.look(console("vm1", 1, pid=1))
    told = service.look(console("vm2", 1, pid=2))
    assert told == [("gone", "vm1"), ("appeared", "vm2")]


def test_another_vm_whose_console_somebody_was_quicker_to_take() -> None:
    service = Service()
    service.look(console("vm1", 1, pid=1))
    assert service.look(console("vm2", 1, pid=2, slot=Slot.HELD)) == [("gone", "vm1")]
    assert service.look(console("vm2", 1, pid=2, slot=Slot.HELD)) == []
    assert service.look(console("vm2", 1, pid=2)) == [("appeared", "vm2")]


def test_a_vm_that_comes_back_at_another_port_takes_its_name_over() -> None:
    service = Service()
    service.look(console("vm1", 1, pid=1))
    service.look(now=10)
    told = service.look(console("vm1", 2, pid=2), now=11)
    assert told == [("gone", "vm1"), ("appeared", "vm1")]
    assert str(service.bridged["vm1"].url) == "ws://127.0.0.1:2"


def test_two_vms_of_one_name() -> None:
    service = Service()
    assert service.look(console("vm", 1, pid=1), console("vm", 2, pid=2)) == [
        ("appeared", "vm"),
        ("appeared", "vm-2"),
    ]


def test_all_consoles_of_a_vm() -> None:
    service = Service()
    told = service.look(
        console("vm", 1, chardev="serial0"), console("vm", 2, number=1, chardev="serial1")
    )
    assert told == [("appeared", "vm"), ("appeared", "vm-serial1")]
    # The second one's chardev was removed.
    service.look(console("vm", 1, chardev="serial0"), now=10)
    told = service.look(console("vm", 1, chardev="serial0"), now=10 + GRACE)
    assert told == [("gone", "vm-serial1")]


@pytest.mark.parametrize("slot", [Slot.HELD, Slot.UNKNOWN])
def test_nobody_is_disturbed(slot: Slot) -> None:
    service = Service()
    assert service.look(console("vm1", 1, slot=slot)) == []
    assert service.look(console("vm1", 1)) == [("appeared", "vm1")]
    # Our own connection holds it from now on.
    assert service.look(console("vm1", 1, slot=slot)) == []


def test_what_is_not_bridged_unasked() -> None:
    service = Service()
    assert service.look(console("vm", 1, number=None)) == []  # a monitor
    assert service.look(console("vm", 1, own=False)) == []  # another user's
    assert service.look(console("vm", 1, listening=False)) == []  # not up yet


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1", "ws://localhost:1"])
def test_explicit_settings_win(url: str) -> None:
    service = Service(mine=url)
    assert service.look(console("vm1", 1)) == []
    assert service.look(console("vm1", 1), console("vm2", 2, pid=2)) == [("appeared", "vm2")]


def test_explicit_settings_that_come_later_win_too() -> None:
    service = Service()
    service.look(console("vm1", 1))
    service.bridged["mine"] = ConsoleSettings("mine", UpstreamUrl.parse("ws://localhost:1"))
    assert service.look(console("vm1", 1)) == [("gone", "vm1")]
    assert service.look(console("vm1", 1)) == []
    del service.bridged["mine"]
    assert service.look(console("vm1", 1)) == [("appeared", "vm1")]


def test_a_name_of_an_explicit_console_is_taken() -> None:
    service = Service(vm1="ws://10.0.0.1:1")
    assert service.look(console("vm1", 1)) == [("appeared", "vm1-2")]


def test_one_that_the_user_removed_stays_away_until_its_vm_ends() -> None:
    service = Service()
    service.look(console("vm1", 1))
    del service.bridged["vm1"]
    assert service.look(console("vm1", 1)) == []
    assert service.look(console("vm1", 1, pid=2)) == [("appeared", "vm1")]


def test_one_that_could_not_be_bridged_is_not_tried_again() -> None:
    service = Service()
    service.roster.update([console("vm1", 1)], [], 0)
    service.roster.dismiss("vm1")
    assert service.look(console("vm1", 1)) == []


def test_one_that_was_removed_by_hand_is_left_alone_by_the_next_process() -> None:
    before, after = Service(), Service()
    before.look(console("vm1", 1))
    del before.bridged["vm1"]
    assert before.look(console("vm1", 1)) == []
    after.roster = Roster((), before.roster.dismissed)
    assert after.look(now=0) == []  # not seen at once
    assert after.look(console("vm1", 1), now=GRACE / 2) == []
    assert after.look(console("vm1", 1), now=GRACE) == []
    assert after.look(now=2 * GRACE) == []
    assert after.roster.dismissed == set()


def test_after_a_handover_the_former_process_s_consoles_are_known() -> None:
    service = Service(("vm1", "vm2", "vm3"), vm1="ws://127.0.0.1:1", vm2="ws://127.0.0.1:2")
    service.bridged["mine"] = ConsoleSettings("mine", UpstreamUrl.parse("ws://127.0.0.1:9"))
    assert service.look(console("vm1", 1), now=0) == []
    assert service.roster.names == {"vm1", "vm2", "vm3"}
    # The second VM ended meanwhile, or is slow to be seen.
    assert service.look(console("vm1", 1), now=GRACE - 0.1) == []
    assert service.look(console("vm1", 1), now=GRACE) == [("gone", "vm2")]
    assert service.roster.names == {"vm1"}
    # The first one is retired as any other.
    assert service.look(now=100) == []
    assert service.look(now=100 + GRACE) == [("gone", "vm1")]
    assert [*service.bridged] == ["mine"]
