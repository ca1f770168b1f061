"""What a real systemd keeps of a unit like ours: the descriptor store, and its limits."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.systemd import UNIT, UserManager, active, install
from tests.support.waiting import eventually

KEEPER = Path(__file__).parent / "support" / "keeper.py"


class Keeper:
    """The unit with a small program in place of ttybridge's, and all the rest as it is."""

    def __init__(self, manager: UserManager, base: Path, count: int) -> None:
        self.manager = manager
        self._report = manager.home / "report"
        program = shutil.copy(KEEPER, manager.home)
        install(manager)
        start = f"{base}/venv/bin/python {program} {count} {self._report}"
        manager.drop_in(f"[Service]\nExecStart=\nExecStart={start}\n")

    def systemctl(self, verb: str) -> None:
        self.manager.systemctl(verb, UNIT)

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._report.read_text().splitlines()]


def test_hardening_refuses_what_it_is_to_refuse(manager: UserManager, base: Path) -> None:
    keeper = Keeper(manager, base, 0)
    keeper.systemctl("start")
    assert keeper.reports[0]["hardening"] == {
        "netlink": "allowed",
        "packets": "EAFNOSUPPORT",
        "executable memory": "EPERM",
        "setuid": "EPERM",
        "namespace": "EPERM",
        "personality": "EPERM",
        "debugging": "EPERM",
    }


def test_what_is_stored_outlives_restarts_and_kills_but_no_stop(
    manager: UserManager, base: Path
) -> None:
    keeper = Keeper(manager, base, 20)
    keeper.systemctl("start")
    (first,) = keeper.reports
    assert (first["came"], first["limit"]) == (0, 5000)
    terminal = os.open(first["pts"], os.O_RDWR | os.O_NOCTTY)
    try:
        keeper.systemctl("restart")
        end, second = keeper.reports[1:]
        assert end["job"] == "restart"
        assert (second["generation"], second["came"], second["wrong"]) == (2, 22, 0)
        os.kill(manager.pid(), signal.SIGKILL)
        eventually(lambda: len(keeper.reports) == 4)
        third = keeper.reports[3]
        assert (third["generation"], third["came"], third["wrong"]) == (3, 22, 0)
        said = [os.read(terminal, 1000) for _ in range(3)]
        assert said == [b"generation 1\n", b"generation 2\n", b"generation 3\n"]
    finally:
        os.close(terminal)
    eventually(lambda: active(manager) == "active")
    keeper.systemctl("stop")
    assert keeper.reports[-1]["job"] == "stop"
    assert manager.show("NFileDescriptorStore") == "0"
    keeper.systemctl("start")
    assert (keeper.reports[-1]["generation"], keeper.reports[-1]["came"]) == (1, 0)


def test_a_signal_of_somebody_else_is_neither_stop_nor_restart(
    manager: UserManager, base: Path
) -> None:
    keeper = Keeper(manager, base, 1)
    keeper.systemctl("start")
    os.kill(manager.pid(), signal.SIGTERM)
    eventually(lambda: active(manager) == "inactive")
    assert keeper.reports[-1]["job"] is None


def test_no_more_is_stored_than_can_be_passed(manager: UserManager, base: Path) -> None:
    """With 900 of 1,024 descriptors in its store, systemd fails the start and drops them all."""
    keeper = Keeper(manager, base, 900)
    manager.drop_in("[Service]\nLimitNOFILE=1024\n")
    keeper.systemctl("start")
    assert keeper.reports[0]["left_out"] == 902 - 512
    keeper.systemctl("restart")
    assert (keeper.reports[-1]["came"], keeper.reports[-1]["wrong"]) == (512, 0)


@pytest.mark.long
def test_thousands_outlive_a_restart(
    manager: UserManager, base: Path, figure: Callable[[str, list[float]], None]
) -> None:
    """As many as the unit allows; what is beyond does not."""
    keeper = Keeper(manager, base, 5100)
    before = time.monotonic()
    keeper.systemctl("start")
    figure("5,000 descriptors put into the store", [time.monotonic() - before])
    assert keeper.reports[0]["left_out"] == 5102 - 5000
    assert manager.show("NFileDescriptorStore") == "5000"
    seconds = []
    for generation in (2, 3):
        before = time.monotonic()
        keeper.systemctl("restart")
        seconds.append(time.monotonic() - before)
        last = keeper.reports[-1]
        assert (last["generation"], last["came"], last["wrong"]) == (generation, 5000, 0)
    figure("restart with 5,000 descriptors kept", seconds)
