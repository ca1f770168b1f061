"""What an examination has found, as a person or a program reads it.  Pure."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bridge.base.printable import printable
from bridge.console.states import State
from bridge.doctor.advice import Hint, for_finding, for_state
from bridge.doctor.examination import Examination
from bridge.doctor.reading import Reading
from bridge.doctor.signs import Finding

_SAID = {
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
    Finding.QUESTION: "an unfinished line, as of a question",
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
_USABLE = {
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
_PASSING = {Finding.STARTED, Finding.KERNEL, Finding.INIT}


@dataclass(frozen=True, slots=True)
class Patient:
    """A console as it was when it was looked at."""

    name: str
    url: str
    state: State
    reason: str = ""


class Diagnosis:
    """See the module.  Without an examination where the console is not online."""

    def __init__(self, patient: Patient, examination: Examination | None) -> None:
        self._patient = patient
        self._examination = examination
        self._reading: Reading | None = None
        self._finding: Finding | None = None
        self._answers: bool | None = None  # None: not asked
        self._hints: list[Hint] = []
        if examination is None:
            self._hints = for_state(patient.state)
        else:
            self._judge(examination)

    def _judge(self, examination: Examination) -> None:
        self._reading = reading = examination.reading()
        self._finding = reading.finding
        answer = examination.answer
        if answer is not None:
            self._answers = bool(answer.strip(b"\r\n\0 "))
            if answer and not self._answers:
                self._finding = Finding.ECHO
        silent = not self._answers and not examination.talking
        self._hints = for_finding(self._finding, reading.systems, silent=silent)

    @property
    def usable(self) -> bool:
        """There is somebody whom one can type at."""
        if self._examination is None or (self._reading and self._reading.prompt and self._mute):
            return False
        talking = self._examination.talking
        return self._finding in _USABLE or (talking and self._finding in _PASSING)

    @property
    def _mute(self) -> bool:
        """It was asked, and did not answer."""
        return self._answers is False

    def record(self) -> dict[str, Any]:
        """For ``--json``."""
        patient, reading, examination = self._patient, self._reading, self._examination
        return {
            "name": patient.name,
            "url": patient.url,
            "state": patient.state.name,
            "reason": patient.reason,
            "usable": self.usable,
            "finding": self._finding.value if self._finding is not None else None,
            "stages": [each.value for each in reading.trail] if reading is not None else [],
            "systems": sorted(reading.systems) if reading is not None else [],
            "last": reading.last if reading is not None else "",
            "talking": examination is not None and examination.talking,
            "typed": "\r" if self._answers is not None else "",
            "answers": self._answers,
            "advice": [asdict(hint) for hint in self._hints],
        }

    def lines(self) -> Iterator[str]:
        """For a person."""
        name, state = printable(self._patient.name), self._patient.state
        if self._reading is None:
            reason = f": {printable(self._patient.reason, 400)}" if self._patient.reason else ""
            yield f"{name}: {state.name}{reason}"
        else:
            yield f"{name}: {self._sentence}"
            yield from self._details()
        yield from self._advised()

    @property
    def _sentence(self) -> str:
        assert self._finding is not None
        assert self._examination is not None
        said = _SAID[self._finding]
        if self._examination.talking:
            return f"{said}, still printing"
        if self._mute and self._finding is not Finding.ECHO:
            return f"{said}, and does not answer Enter"
        return said

    def _details(self) -> Iterator[str]:
        assert self._reading is not None
        assert self._examination is not None
        if self._reading.last:
            yield f"  last line  {printable(self._reading.last, 100)}"
        stages = [_SHORT[each] for each in self._reading.trail if each in _SHORT]
        if stages:
            yield f"  stages     {', '.join(stages)}"
        if self._answers is None:
            yield f"  typed      nothing: {self._examination.restraint}"
        else:
            yield "  typed      Enter (CR), once, after it was silent"

    def _advised(self) -> Iterator[str]:
        for hint in self._hints:
            whom = f" ({hint.system})" if hint.system else ""
            yield f"  {hint.topic}{whom}: {hint.text}"
