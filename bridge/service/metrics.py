"""Figures of a running service as text for Prometheus.  Pure.

The format is the text exposition format 0.0.4: per metric a HELP line, a TYPE line and then
all its samples; counters end in ``_total``, units are base units and stand in the names.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Of the loop's lag: a healthy loop is in the first, a person feels the fifth, and in the last
# the watchdog is near.
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

Labels = tuple[tuple[str, str], ...]
Sample = tuple[Labels, float]


class Histogram:
    """Counts values by size."""

    def __init__(self, bounds: tuple[float, ...] = LAG_BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Of values up to each bound and above the one before; and above the last."""
        self.sum = 0.0
        self.most = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value
        self.most = max(self.most, value)


@dataclass(frozen=True, slots=True)
class LogFigures:
    """Of one console's log."""

    written: int
    missing: int
    failures: int
    """Attempts in a row that failed: more than 0 while the disk takes nothing."""


@dataclass(frozen=True, slots=True)
class ConsoleFigures:
    """Of one console; bytes where nothing else is said."""

    name: str
    state: str
    seconds: Mapping[str, float]
    """Spent in each state there is."""
    attachments: Mapping[str, int]
    """By kind of endpoint."""
    from_guest: int = 0
    to_guest: int = 0
    skipped: int = 0
    discarded: int = 0
    refused: int = 0
    connections: int = 0
    """Times that the guest was reached."""
    frames: int | None = None
    """Websocket frames received."""
    log: LogFigures | None = None


@dataclass(frozen=True, slots=True)
class ServiceFigures:
    """Of the whole."""

    version: str
    started: float
    """Seconds since the epoch."""
    now: float
    lag: Histogram


@dataclass(frozen=True, slots=True)
class _Metric:
    """Something that each console has one or more samples of."""

    name: str
    kind: str
    meaning: str
    samples: Callable[[ConsoleFigures], Iterable[Sample]]


def exposition(service: ServiceFigures, consoles: Iterable[ConsoleFigures]) -> str:
    """The whole text."""
    consoles = list(consoles)
    lines = [*_service(service, len(consoles))]
    for metric in _CONSOLE:
        samples = (
            ((("console", console.name), *labels), value)
            for console in consoles
            for labels, value in metric.samples(console)
        )
        lines += _family(f"ttybridge_console_{metric.name}", metric.kind, metric.meaning, samples)
    return "\n".join(lines) + "\n"


def _service(service: ServiceFigures, consoles: int) -> Iterator[str]:
    version: Labels = (("version", service.version),)
    for name, meaning, labels, value in (
        ("build_info", "Always 1; the version is a label.", version, 1),
        ("start_time_seconds", "When the service started, since the epoch.", (), service.started),
        ("uptime_seconds", "How long it has run.", (), service.now - service.started),
        ("consoles", "Consoles that there are.", (), consoles),
        ("loop_lag_max_seconds", "The latest that the loop ever was.", (), service.lag.most),
    ):
        yield from _family(f"ttybridge_{name}", "gauge", meaning, [(labels, value)])
    yield from _histogram(
        "ttybridge_loop_lag_seconds", "How late the loop wakes a task.", service.lag
    )


def _family(name: str, kind: str, meaning: str, samples: Iterable[Sample]) -> Iterator[str]:
    lines = [_sample(name, labels, value) for labels, value in samples]
    if lines:  # a header without samples says nothing
        yield from _header(name, kind, meaning)
        yield from lines


def _histogram(name: str, meaning: str, histogram: Histogram) -> Iterator[str]:
    yield from _header(name, "histogram", meaning)
    count = 0
    for bound, more in zip([*map(str, histogram.bounds), "+Inf"], histogram.counts, strict=True):
        count += more
        yield _sample(f"{name}_bucket", (("le", bound),), count)
    yield _sample(f"{name}_sum", (), histogram.sum)
    yield _sample(f"{name}_count", (), count)


def _header(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, labels: Labels, value: float) -> str:
    pairs = ",".join(f'{label}="{_escape(text)}"' for label, text in labels)
    return f"{name}{{{pairs}}} {value!r}" if pairs else f"{name} {value!r}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _one(value: float | None) -> Iterable[Sample]:
    return [((), value)] if value is not None else []


def _each(label: str, values: Mapping[str, float]) -> Iterable[Sample]:
    return [(((label, key),), value) for key, value in values.items()]


_CONSOLE = (
    _Metric(
        "state",
        "gauge",
        "1 for the state that the console is in, 0 for the others.",
        lambda c: _each("state", {state: int(state == c.state) for state in c.seconds}),
    ),
    _Metric(
        "state_seconds_total",
        "counter",
        "Time spent in each state.",
        lambda c: _each("state", c.seconds),
    ),
    _Metric(
        "from_guest_bytes_total", "counter", "Output of the guest.", lambda c: _one(c.from_guest)
    ),
    _Metric("to_guest_bytes_total", "counter", "Input sent to it.", lambda c: _one(c.to_guest)),
    _Metric(
        "skipped_bytes_total",
        "counter",
        "Output that attachments missed because they read too slowly.",
        lambda c: _one(c.skipped),
    ),
    _Metric(
        "discarded_bytes_total",
        "counter",
        "Input that was typed while there was no guest.",
        lambda c: _one(c.discarded),
    ),
    _Metric(
        "refused_bytes_total",
        "counter",
        "Input of those who may only read.",
        lambda c: _one(c.refused),
    ),
    _Metric("frames_total", "counter", "Websocket frames received.", lambda c: _one(c.frames)),
    _Metric(
        "reconnects_total",
        "counter",
        "Times that the guest was reached again.",
        lambda c: _one(max(c.connections - 1, 0)),
    ),
    _Metric(
        "attachments",
        "gauge",
        "Who is attached, by kind of endpoint.",
        lambda c: _each("kind", c.attachments),
    ),
    _Metric(
        "log_bytes_total",
        "counter",
        "Text written to the log.",
        lambda c: _one(c.log.written if c.log else None),
    ),
    _Metric(
        "log_missing_bytes_total",
        "counter",
        "Output that the log lacks because the disk took nothing.",
        lambda c: _one(c.log.missing if c.log else None),
    ),
    _Metric(
        "log_failing",
        "gauge",
        "1 while the disk takes nothing.",
        lambda c: _one(int(c.log.failures > 0) if c.log else None),
    ),
)
