"""What ``ttybridge discover`` prints: consoles, lines ready to paste, what can't be seen."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from bridge.base.printable import printable
from bridge.vms.discovery import (
    Found,
    Kernel,
    Record,
    Slot,
    console_name,
    consoles,
    qmp_address,
    records,
)
from bridge.vms.qmp import QmpError
from bridge.vms.qmpsync import QmpSession
from bridge.vms.vms import Vm, Vms, inquire

EXAMPLE = (
    "-chardev socket,id=c,websocket=on,host=127.0.0.1,port=4555,server=on,wait=off"
    " -serial chardev:c"
)


def show(
    say: Callable[[str], None],
    *,
    as_json: bool,
    directory: Path | None,
    bridged: Mapping[str, str],
) -> None:
    """Look at what runs and ``say`` it.

    ``directory`` is for the lines to paste; ``bridged`` has the names, by URL, of the consoles
    that the service there has already.
    """
    vms = Vms().look()
    found = [console for vm in vms for console in _consoles(vm)]
    listed = records(found)
    if as_json:
        lines = [json.dumps(asdict(record)) for record in listed]
    else:
        lines = [*_table(listed), *_lines(found, directory, bridged)]
    if lines:
        say("\n".join(lines))
    for note in _notes(vms, found):
        print(f"ttybridge: {note}", file=sys.stderr)


def _consoles(vm: Vm) -> list[Found]:
    """The consoles of a VM, with what QMP adds where it can be asked."""
    kernel = Kernel()
    found = consoles(vm, kernel)
    qmp = qmp_address(vm, kernel)
    # Whoever has the QMP socket has it for himself: to queue behind him would only stand
    # in the next one's way.
    if qmp is None or kernel.held(qmp):
        return found
    try:
        with QmpSession(qmp) as session:
            vm.told = session.converse(inquire())
    except QmpError as error:
        print(f"ttybridge: {printable(vm.name)}: QMP not asked: {error}", file=sys.stderr)
    return consoles(vm, Kernel())


def _notes(vms: list[Vm], found: list[Found]) -> Iterable[str]:
    """What the list does not show."""
    if not vms:
        yield f"no QEMU that you may see runs here; a VM with a console: qemu-system-... {EXAMPLE}"
    for vm in vms:
        name, pid = printable(vm.name), vm.process.pid
        if vm.machine.unread and vm.told is None:
            files = ", ".join(map(printable, vm.machine.unread))
            yield f"{name} (pid {pid}): what -readconfig {files} says can't be seen from here"
        elif not any(f.process == vm.process for f in found):
            yield f"{name} (pid {pid}) has no console that listens; add to its command line: {EXAMPLE}"


def _table(listed: list[Record]) -> Iterable[str]:
    if not listed:
        return
    rows = [("VM", "CHARDEV", "DEVICE", "PID", "URL", "SLOT")]
    for r in listed:
        slot = f"{r.slot} by {r.holder}" if r.holder else r.slot
        row = (r.vm, r.chardev, r.device or "-", str(r.pid), r.url or "not known", slot)
        rows.append(tuple(map(printable, row)))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        yield "  ".join(f"{c:{w}}" for c, w in zip(cells, widths, strict=True)).rstrip()


def _lines(found: list[Found], directory: Path | None, bridged: Mapping[str, str]) -> Iterable[str]:
    more = f" --runtime-dir {shlex.quote(str(directory))}" if directory else ""
    taken: set[str] = set()
    for console in found:
        if console.url is None:
            continue
        if name := bridged.get(console.url):
            yield f"\n{name}, which is bridged:"
            yield f"  ttybridge attach {name}{more}"
            continue
        name = console_name(console, taken)
        taken.add(name)
        url = shlex.quote(console.url)
        held = ", once nobody has it" if console.slot is Slot.HELD else ""
        yield f"\n{name}{held}:"
        yield f"  ttybridge run {name}={url}{more}"
        yield f"  ttybridge add {name} {url}{more}"
