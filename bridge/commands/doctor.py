"""``ttybridge doctor``: who is at the other end of a console, and what would help?"""

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from bridge.base.printable import printable
from bridge.commands import common as command
from bridge.commands.client import Client
from bridge.console.manners import MAX_REPLAY
from bridge.console.states import State

if TYPE_CHECKING:
    from bridge.commands.common import Subparsers
    from bridge.doctor.diagnosis import Diagnosis

# Whoever typed so lately may be about to go on, and Enter would come amid his line.
_LATELY = 10.0

# So long may a console take to connect, or to fail.
_CONNECTING = 7.0


def add_to(commands: "Subparsers") -> None:
    doctor = commands.add_parser(
        "doctor",
        help="say who is at a console's other end, and what to do",
        description="Listens, presses Enter once where that can do no harm, and says who is there."
        " NAME is a console of the running service; a URL needs none.",
    )
    doctor.add_argument("console", metavar="NAME|URL")
    doctor.add_argument("--read-only", action="store_true", help="only listen, type nothing")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    command.directory_option(doctor)
    doctor.set_defaults(command=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    mute = "--read-only" if arguments.read_only else ""
    diagnosis = _visit(arguments, mute) if "://" in arguments.console else _ask(arguments, mute)
    if arguments.json:
        command.say(json.dumps(diagnosis.record()))
    else:
        command.say("\n".join(diagnosis.lines()))
    return 0 if diagnosis.usable else 1


def _visit(arguments: argparse.Namespace, mute: str) -> "Diagnosis":
    from bridge.doctor.visit import visit
    from bridge.settings.url import UpstreamUrl

    return visit(
        UpstreamUrl.parse(arguments.console),
        mute=mute,
        warn=lambda text: print(f"ttybridge: {printable(text)}", file=sys.stderr),
    )


def _ask(arguments: argparse.Namespace, mute: str) -> "Diagnosis":
    """By way of the service, which has the console."""
    from bridge.doctor.diagnosis import Patient, diagnose, unreached
    from bridge.doctor.session import examine

    name, directory = arguments.console, command.directory(arguments)
    with Client(directory) as asking:
        status = _settled(asking, name)
        examination = None
        # Not for one that has FAILED: it is tried again when somebody attaches, which may
        # type a request into a guest.
        if status["consoles"][0]["state"] == State.ONLINE.name:
            mute = mute or _typist(status)
            with Client(directory) as client:
                stream = client.attach(name, readonly=bool(mute), replay=MAX_REPLAY, notices=False)
                examination = examine(stream, mute=mute)
            status = asking.ask("status", name=name)
    console = status["consoles"][0]
    patient = Patient(name, console["url"], State[console["state"]], console["reason"])
    if examination is None or patient.state is not State.ONLINE:
        return unreached(patient)
    return diagnose(patient, examination)


def _settled(asking: Client, name: str) -> dict[str, Any]:
    """The status of the console, once it is known whether it can be reached."""
    deadline = time.monotonic() + _CONNECTING
    while True:
        status = asking.ask("status", name=name)
        connecting = status["consoles"][0]["state"] == State.CONNECTING.name
        if not connecting or time.monotonic() > deadline:
            return status
        time.sleep(0.1)


def _typist(status: dict[str, Any]) -> str:
    """Why one should not type now: somebody else does."""
    now: float = status["service"]["now"]
    console = status["consoles"][0]
    typed = [each["typed"] for each in console["attachments"]]
    # Who types by `send` is never attached, and may go on all the same.
    if (last := console["typed"]) is not None and last["kind"] == "send":
        typed.append(last["time"])
    seconds = min((now - at for at in typed if at is not None), default=_LATELY)
    return f"somebody typed {max(0, seconds):.0f} s ago" if seconds < _LATELY else ""
