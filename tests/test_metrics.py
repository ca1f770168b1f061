"""The text for Prometheus is what its own parser reads, whatever consoles are called."""

import math
from typing import Any

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from bridge.service.looplag import INTERVAL, LoopLag
from bridge.service.metrics import ConsoleFigures, Histogram, LogFigures, ServiceFigures, exposition

STATES = ("CONNECTING", "ONLINE", "WAITING")


def figures(name: str = "vm1", state: str = "ONLINE", **others: Any) -> ConsoleFigures:
    return ConsoleFigures(
        name, state, dict.fromkeys(STATES, 0.5), {"pty": 1, "telnet": 0}, **others
    )


def service(*values: float) -> ServiceFigures:
    lag = Histogram()
    for value in values:
        lag.observe(value)
    return ServiceFigures("0.1.0", 1000.0, 1060.5, lag)


def parsed(*consoles: ConsoleFigures, lag: tuple[float, ...] = ()) -> dict[str, Metric]:
    families = list(text_string_to_metric_families(exposition(service(*lag), consoles)))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "the samples of a metric stand together"
    return {family.name: family for family in families}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(s.labels.values()): s.value for s in family.samples}


def test_every_metric_says_what_it_is() -> None:
    log = LogFigures(1, 2, 3)
    text = exposition(service(), [figures(frames=7), ConsoleFigures("b", "X", {}, {}, log=log)])
    families = parsed(figures(frames=7), ConsoleFigures("b", "X", {}, {}, log=log))
    for family in families.values():
        assert family.documentation.endswith(".")
        assert family.type in {"counter", "gauge", "histogram"}
        assert family.name.startswith("ttybridge_")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
    assert text.endswith("\n")
    assert not [line for line in text.splitlines() if line.count("# ") > 1]


def test_the_figures_of_the_service() -> None:
    families = parsed(figures(), lag=(0.0005, 0.001, 0.2, 9.0))
    assert values(families["ttybridge_build_info"]) == {("0.1.0",): 1}
    assert values(families["ttybridge_start_time_seconds"]) == {(): 1000}
    assert values(families["ttybridge_uptime_seconds"]) == {(): 60.5}
    assert values(families["ttybridge_consoles"]) == {(): 1}
    assert values(families["ttybridge_loop_lag_max_seconds"]) == {(): 9}
    lag = families["ttybridge_loop_lag_seconds"]
    buckets = {s.labels["le"]: s.value for s in lag.samples if s.name.endswith("_bucket")}
    assert buckets["0.001"] == 2
    assert buckets["0.1"] == 2
    assert buckets["0.25"] == 3
    assert buckets["5.0"] == 3
    assert buckets["+Inf"] == 4
    others = {s.name.rpartition("_")[2]: s.value for s in lag.samples if not s.labels}
    assert others == {"count": 4, "sum": pytest.approx(9.2015)}


def test_the_figures_of_a_console() -> None:
    families = parsed(
        figures(from_guest=10, to_guest=20, skipped=30, discarded=40, refused=50, connections=3),
        figures("vm2", "WAITING", frames=60),
    )
    for name, one, two in (
        ("from_guest_bytes", 10, 0),
        ("to_guest_bytes", 20, 0),
        ("skipped_bytes", 30, 0),
        ("discarded_bytes", 40, 0),
        ("refused_bytes", 50, 0),
        ("reconnects", 2, 0),
    ):
        assert values(families[f"ttybridge_console_{name}"]) == {("vm1",): one, ("vm2",): two}
    assert values(families["ttybridge_console_frames"]) == {("vm2",): 60}
    assert values(families["ttybridge_console_attachments"])["vm1", "pty"] == 1
    states = values(families["ttybridge_console_state"])
    assert [key for key, value in states.items() if value] == [
        ("vm1", "ONLINE"),
        ("vm2", "WAITING"),
    ]
    assert len(states) == 6
    assert values(families["ttybridge_console_state_seconds"])["vm2", "ONLINE"] == 0.5
    assert not [name for name in families if "log_" in name and "lag" not in name]


def test_the_figures_of_a_log() -> None:
    families = parsed(
        ConsoleFigures("a", "X", {}, {}, log=LogFigures(5, 6, 0)),
        ConsoleFigures("b", "X", {}, {}, log=LogFigures(0, 0, 9)),
    )
    assert values(families["ttybridge_console_log_bytes"]) == {("a",): 5, ("b",): 0}
    assert values(families["ttybridge_console_log_missing_bytes"]) == {("a",): 6, ("b",): 0}
    assert values(families["ttybridge_console_log_failing"]) == {("a",): 0, ("b",): 1}


@given(
    st.lists(st.text(max_size=20), unique=True, min_size=1, max_size=5),
    st.floats(min_value=0, allow_nan=False),
    st.integers(0, 2**53),
)
def test_any_name_and_any_figure_come_back(names: list[str], spent: float, count: int) -> None:
    consoles = [
        ConsoleFigures(name, name, {name: spent}, {name: 1}, from_guest=count) for name in names
    ]
    families = parsed(*consoles)
    seconds = values(families["ttybridge_console_state_seconds"])
    assert seconds == {(name, name): spent for name in names}
    output = values(families["ttybridge_console_from_guest_bytes"])
    assert output == {(name,): count for name in names}


@given(st.lists(st.floats(min_value=0, max_value=100), max_size=30))
def test_a_histogram_counts_each_value_once(observed: list[float]) -> None:
    histogram = Histogram()
    for value in observed:
        histogram.observe(value)
    assert sum(histogram.counts) == len(observed)
    for bound, upto in zip(
        histogram.bounds,
        [sum(histogram.counts[: n + 1]) for n in range(len(histogram.bounds))],
        strict=True,
    ):
        assert upto == len([value for value in observed if value <= bound])
    assert math.isclose(histogram.sum, sum(observed))
    assert histogram.most == max(observed, default=0)


async def test_the_loops_lag_is_how_late_it_wakes(mock_clock: trio.testing.MockClock) -> None:
    lag = LoopLag()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lag.run)
        for late in (0, 0.3, 0.004):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(INTERVAL + late)  # somebody has kept the loop busy so long
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    histogram = lag.histogram
    assert histogram.most == pytest.approx(0.3)
    assert histogram.sum == pytest.approx(0.304)
    assert sum(histogram.counts) == 3
    assert histogram.counts[-4:] == [0] * 4
