"""A real UART that prints without end: what keeping up costs each client."""

import time

from attach import attached
from clients import clients
from processes import cpu_seconds, wakeups
from table import Report, Table
from vm import machine_room, missing

SECONDS = 5.0


def run(_rounds: int, _seconds: float) -> Report:
    table = Table(
        "QEMU's own flood",
        f"A boot sector that prints without end, in one-byte frames, for {SECONDS:g} s each.",
        ["to", "client", "kB/s", "% of a core", "wake-ups per second"],
    )
    if lacking := missing():
        table.note = f"Not taken: {lacking} is not installed."
        return Report([table])
    with machine_room() as start:
        for client in clients():
            with (
                start("flood") as vm,
                client.start(vm.url) as running,
                attached(running.way) as console,
            ):
                console.read()
                before, woken, begin = (
                    cpu_seconds(running.pid),
                    wakeups(running.pid),
                    time.monotonic(),
                )
                count = 0
                while (now := time.monotonic()) < begin + SECONDS:
                    count += len(console.read())
                table.rows.append(
                    [
                        *(client.kind, client.name, count / 1e3 / (now - begin)),
                        100 * (cpu_seconds(running.pid) - before) / (now - begin),
                        (wakeups(running.pid) - woken) / (now - begin),
                    ]
                )
    return Report([table])
