"""What an examination has found, as a person or a program reads it.  Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from bridge.base.printable import printable
from bridge.console.states import State
from bridge.doctor.advice import Hint, for_finding, for_stale, for_state
from bridge.doctor.examination import ENTER, Examination
from bridge.doctor.signs import Finding

SAID = {
    Finding.NOTHING: "nothing: it prints nothing",
    Finding.UNKNOWN: "something that prints, and is not known here",
    Finding.ECHO: "somebody who returns Enter, and nothing more",
    Finding.TELNET: "telnet's negotiation, and nothing more",
    Finding.BIOS: "SeaBIOS, the firmware",
    Finding.UEFI: "UEFI, the firmware",
    Finding.IPXE: "iPXE, a network card's firmware",
    Finding.GRUB: "GRUB, the boot loader",
    Finding.LOADER: "a boot loader",
    Finding.STARTED: "a system that was started and has printed nothing",
    Finding.KERNEL: "a kernel",
    Finding.INIT: "the start of a system's services",
    Finding.LOGIN: "a login prompt",
    Finding.PASSWORD: "a prompt for a password",
    Finding.SHELL: "a shell",
    Finding.RESCUE: "a system that failed to start, and its rescue shell",
    Finding.SAC: "Windows' Special Administration Console",
    Finding.PAGER: "a pager",
    Finding.SCREEN: "a program that has the whole screen",
    Finding.QUESTION: "an unfinished line: a question, or a prompt that is not known here",
    Finding.PANIC: "a kernel that has given up",
    Finding.MONITOR: "QEMU's monitor, not the guest",
    Finding.OTHER: "a server that is no console",
}

# In a list of stages.
_SHORT = {
    Finding.TELNET: "telnet",
    Finding.BIOS: "SeaBIOS",
    Finding.UEFI: "UEFI",
    Finding.IPXE: "iPXE",
    Finding.GRUB: "GRUB",
    Finding.LOADER: "boot loader",
    Finding.KERNEL: "kernel",
    Finding.INIT: "services",
    Finding.LOGIN: "login",
    Finding.SAC: "SAC",
}

# Where keys have an effect on the guest.
USABLE = {
    Finding.BIOS,
    Finding.UEFI,
    Finding.IPXE,
    Finding.GRUB,
    Finding.LOADER,
    Finding.LOGIN,
    Finding.PASSWORD,
    Finding.SHELL,
    Finding.RESCUE,
    Finding.SAC,
    Finding.PAGER,
    Finding.SCREEN,
    Finding.QUESTION,
}

# It only passes by: usable as long as it goes on.
PASSING = {Finding.STARTED, Finding.KERNEL, Finding.INIT}


@dataclass(frozen=True, slots=True)
class Patient:
    """A console as it was when it was looked at."""

    name: str
    url: str
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """See the module."""

    patient: Patient
    hints: Sequence[Hint]
    finding: Finding | None = None
    """None where the console is not online."""
    usable: bool = False
    """There is somebody whom one can type at."""
    stages: Sequence[Finding] = ()
    systems: Sequence[str] = ()
    last: str = ""
    """The last line of the output."""
    talking: bool = False
    """The output did not stop."""
    answers: bool | None = None
    """Something came after Enter; None where it was not pressed."""
    restraint: str = ""
    """Why it was not."""

    def record(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "name": self.patient.name,
            "url": self.patient.url,
            "state": self.patient.state.name,
            "reason": self.patient.reason,
            "finding": self.finding and self.finding.value,
            "usable": self.usable,
            "stages": [stage.value for stage in self.stages],
            "systems": list(self.systems),
            "last": self.last,
            "talking": self.talking,
            "typed": "" if self.answers is None else ENTER.decode(),
            "answers": self.answers,
            "restraint": self.restraint,
            "advice": [asdict(hint) for hint in self.hints],
        }

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"{printable(self.patient.name)}: {self._sentence}"
        if self.finding is not None:
            yield from self._details()
        for topic, hints in groupby(self.hints, lambda hint: hint.topic):
            yield f"\n{topic}:"
            yield from (f"  {h.system + ': ' if h.system else ''}{h.text}" for h in hints)

    @property
    def _sentence(self) -> str:
        if self.finding is None:
            reason = self.patient.reason
            return self.patient.state.name + (f": {printable(reason, 400)}" if reason else "")
        if self.talking:
            return f"{SAID[self.finding]}, still printing"
        mute = self.answers is False and self.finding is not Finding.ECHO
        return SAID[self.finding] + (", and does not answer Enter" if mute else "")

    def _details(self) -> Iterator[str]:
        if self.last:
            yield f"  last line  {printable(self.last, 100)}"
        if stages := [_SHORT[stage] for stage in self.stages if stage in _SHORT]:
            yield f"  stages     {', '.join(stages)}"
        typed = "Enter (CR), once" if self.answers is not None else f"nothing: {self.restraint}"
        yield f"  typed      {typed}"


def unreached(patient: Patient) -> Diagnosis:
    """The console is not online."""
    return Diagnosis(patient, for_state(patient.state, patient.reason))


def diagnose(patient: Patient, examination: Examination) -> Diagnosis:
    """What the examination of a console tells that is online."""
    reading, answers = examination.reading(), None
    finding, talking = reading.finding, examination.talking
    if examination.answer is not None:
        answers = bool(examination.answer.strip(b"\r\n\0 "))
        if examination.answer and not answers:
            finding = Finding.ECHO
    usable = finding in USABLE or (talking and finding in PASSING)
    # A prompt of yesterday whose program is gone is none.
    stale = reading.prompt and examination.answer == b""
    hints = for_finding(finding, reading.trail, reading.systems, silent=not answers and not talking)
    return Diagnosis(
        patient,
        for_stale() if stale else hints,
        finding,
        usable=usable and not stale,
        stages=reading.trail,
        systems=sorted(reading.systems),
        last=reading.last,
        talking=talking,
        answers=answers,
        restraint=examination.restraint,
    )
