"""What may be at the guest's end of a console, and the texts that it is known by.  Pure.

Two kinds of signs.  A *trace* is somewhere in the output: the firmware was there, then the
kernel; the traces tell how far the guest has come.  A *prompt* is the last that was
printed: somebody waits for what is typed.

No pattern may begin anew at each of many places and go on without a bound: a guest prints
what it likes.

A sign tells, too, what Enter would do there.  At a login prompt it does nothing; in a boot
menu it starts an entry, at a question it says yes, and behind a command that is typed and
not entered yet it enters it.
"""

import enum
import re
from dataclasses import dataclass


class Finding(enum.Enum):
    """What there is; the value is for programs, ``diagnosis`` has the words for people."""

    NOTHING = "nothing"
    UNKNOWN = "unknown"
    ECHO = "echo"  # Enter comes back, and nothing more
    TELNET = "telnet"
    BIOS = "seabios"
    UEFI = "uefi"
    IPXE = "ipxe"
    GRUB = "grub"
    LOADER = "loader"
    STARTED = "started"  # by firmware or boot loader, and silent
    KERNEL = "kernel"
    INIT = "init"
    LOGIN = "login"
    PASSWORD = "password"  # noqa: S105 (a name)
    SHELL = "shell"
    RESCUE = "rescue"
    SAC = "sac"
    PAGER = "pager"
    SCREEN = "screen"  # a program that has all of it
    QUESTION = "question"
    PANIC = "panic"
    MONITOR = "monitor"
    OTHER = "other"  # a server that is no console


# How a boot goes on.  One of these that begins again ends those behind it.
STAGES = (
    Finding.TELNET,
    Finding.BIOS,
    Finding.UEFI,
    Finding.IPXE,
    Finding.GRUB,
    Finding.LOADER,
    Finding.STARTED,
    Finding.KERNEL,
    Finding.INIT,
    Finding.QUESTION,
    Finding.LOGIN,
    Finding.SAC,
    Finding.RESCUE,
    Finding.PANIC,
    Finding.SCREEN,
    Finding.OTHER,
)


@dataclass(frozen=True, slots=True)
class Sign:
    """See the module."""

    finding: Finding
    pattern: re.Pattern[str]
    system: str = ""
    """Which operating system this is, if it tells."""
    enter: str = ""
    """What Enter would do, if that could be unwelcome."""
    begins: bool = False
    """A trace that stands at its stage's begin."""


def _sign(
    finding: Finding, pattern: str, system: str = "", enter: str = "", *, begins: bool = False
) -> Sign:
    return Sign(finding, re.compile(pattern, re.MULTILINE), system, enter, begins)


_CHOOSES = "choose an entry of the menu"
_ENTERS = "enter what is typed there already"
_TRIES = "be a wrong password"
_PAGES = "turn the page"
_BEGINS = "begin the questions of a first start"

# The text ends with it, but for blanks; the first that fits counts.
PROMPTS = (
    _sign(Finding.MONITOR, r"^\(qemu\)\Z"),
    _sign(Finding.MONITOR, r"^\(qemu\) .+\Z", enter=_ENTERS),
    _sign(Finding.SAC, r"^SAC>\Z", "windows"),
    _sign(Finding.SAC, r"^SAC>.+\Z", "windows", _ENTERS),
    _sign(Finding.IPXE, r"iPXE>\Z"),
    _sign(Finding.IPXE, r"iPXE> .{1,400}\Z", enter=_ENTERS),
    _sign(Finding.UEFI, r"^(?:Shell|FS\d+:[^\n>]*)>\Z"),
    _sign(Finding.UEFI, r"^(?:Shell|FS\d+:[^\n>]*)> .+\Z", enter=_ENTERS),
    _sign(Finding.GRUB, r"^grub(?: rescue)?>\Z"),
    _sign(Finding.GRUB, r"^grub(?: rescue)?> .+\Z", enter=_ENTERS),
    _sign(Finding.LOADER, r"^(?:U-Boot)? ?=>.*\Z", enter="repeat its last command"),
    _sign(Finding.LOADER, r"^boot>.*\Z", "openbsd", "boot"),
    _sign(Finding.LOADER, r"^boot:.*\Z", enter="boot"),
    _sign(Finding.LOADER, r"^OK\Z", "freebsd"),
    _sign(Finding.RESCUE, r"^\(initramfs\)\Z", "linux"),
    _sign(Finding.RESCUE, r"^\(initramfs\) .+\Z", "linux", _ENTERS),
    _sign(Finding.RESCUE, r"^Give root password for maintenance\n.*\Z", "linux", _TRIES),
    _sign(Finding.RESCUE, r"^\(or press Control-D to continue\):\Z", "linux", _TRIES),
    _sign(Finding.PASSWORD, r"(?i)pass(?:word|phrase)\b[^\n]{0,80}:\Z", "", _TRIES),
    _sign(Finding.LOGIN, r"(?i)^(?:[^\n]*[ \t])?login:\Z"),
    _sign(Finding.LOGIN, r"^\S+ login: \S+\Z", "", _ENTERS),
    _sign(Finding.PAGER, r"--More--[^\n]{0,40}\Z", "", _PAGES),
    _sign(Finding.PAGER, r"^(?:\(END\)|lines \d+-\d+[^\n]*|:)\Z", "", _PAGES),
    _sign(Finding.SHELL, r"^[^\n]{0,100}(?<![#$%\d])[#$%\u276f\u279c]\Z"),
    _sign(Finding.SHELL, r"^[^\s#$%>]{1,60}[#$%] [^\n]+\Z", "", _ENTERS),
    _sign(
        Finding.SHELL,
        r"^(?:\[[^\]\n]{1,60}\]|\S{1,60}@\S{1,60} [^\n#$%]{1,60})[#$%] [^\n]+\Z",
        "",
        _ENTERS,
    ),
    _sign(Finding.SHELL, r"(?i)^(?:PS )?[a-z]:\\[^\n>]*>\Z", "windows"),
    _sign(Finding.SHELL, r"(?i)^(?:PS )?[a-z]:\\[^\n>]*>.+\Z", "windows", _ENTERS),
)

# Where none of them fits, and no trace is in that line.
QUESTION = _sign(Finding.QUESTION, r"[?:>\])]\Z", "", "answer what is asked there")

# The same, with nothing known of it but that somebody may type there, or has typed.
UNFINISHED = _sign(Finding.UNKNOWN, r"\S\Z(?<!\.\.\.)", "", "enter what is on the last line")

# A program that uses the terminal's second screen, and has not gone back.
SCREEN = _sign(Finding.SCREEN, r"\Z", "", "do something in that program")

TRACES = (
    # ``seen`` writes it so.
    _sign(Finding.TELNET, r"^<telnet>$", begins=True),
    _sign(Finding.BIOS, r"^SeaBIOS \(version", begins=True),
    _sign(Finding.BIOS, r"^(?:No bootable device|Boot failed: )", begins=True),
    _sign(Finding.BIOS, r"^Select boot device:", enter=_CHOOSES, begins=True),
    _sign(
        Finding.UEFI, r"^(?:BdsDxe: (?:loading|failed|No boot)|>>Start (?:PXE|HTTP))", begins=True
    ),
    _sign(Finding.UEFI, r"^UEFI Interactive Shell v", begins=True),
    _sign(Finding.UEFI, r"<Enter>=Select Entry", enter=_CHOOSES, begins=True),
    _sign(Finding.IPXE, r"iPXE (?:initialising|\d+\.\d)|^Configuring \(net\d", begins=True),
    _sign(Finding.GRUB, r"^(?:.*Welcome to GRUB!|error: .*\.\nEntering rescue mode)", begins=True),
    _sign(Finding.GRUB, r"^ *GNU GRUB +version", enter=_CHOOSES, begins=True),
    _sign(Finding.GRUB, r"The highlighted entry will be executed", enter=_CHOOSES),
    _sign(Finding.LOADER, r"^(?:SYS|ISO|EXT|PXE)LINUX \d", enter=_CHOOSES, begins=True),
    _sign(Finding.LOADER, r"Reboot Into Firmware Interface", enter=_CHOOSES, begins=True),
    _sign(Finding.LOADER, r"^U-Boot (?:SPL )?\d{4}", enter="stop it from booting", begins=True),
    _sign(Finding.LOADER, r"^>> OpenBSD/\S+ BOOT", "openbsd", "boot", begins=True),
    _sign(
        Finding.LOADER,
        r"BTX loader|FreeBSD/\S{1,20} (?:bootstrap|EFI) loader",
        "freebsd",
        begins=True,
    ),
    _sign(Finding.LOADER, r"Boot Multi user \[Enter\]", "freebsd", "boot"),
    _sign(Finding.LOADER, r"Windows Boot Manager", "windows", _CHOOSES, begins=True),
    _sign(Finding.STARTED, r"^(?:Booting from \S.*\.\.\.|BdsDxe: starting )", begins=True),
    _sign(Finding.STARTED, r"^ *(?:Booting `|Loading (?:Linux|initial ramdisk) )", begins=True),
    _sign(Finding.STARTED, r"^(?:EFI stub: |Decompressing Linux)", "linux"),
    _sign(Finding.KERNEL, r"Linux version \d", "linux", begins=True),
    _sign(Finding.KERNEL, r"^\[ *\d+\.\d{6}\] ", "linux"),
    _sign(Finding.KERNEL, r"^Copyright \(c\) .* The FreeBSD Project", "freebsd", begins=True),
    _sign(Finding.KERNEL, r"^OpenBSD \d+\.\d\S* \(", "openbsd", begins=True),
    _sign(Finding.INIT, r"^(?:\[ *\d+\.\d+\] )?systemd\[1\]: ", "linux"),
    _sign(Finding.INIT, r"^\[(?:  OK  |FAILED|DEPEND| INFO | SKIP )\] ", "linux"),
    _sign(Finding.INIT, r"^ *OpenRC \d", "alpine"),
    # systemd-firstboot; other units go on printing behind it.
    _sign(Finding.QUESTION, r"^-- Press any key to proceed --", "linux", _BEGINS, begins=True),
    _sign(Finding.LOGIN, r"^\S+ login:", begins=True),
    _sign(Finding.SAC, r"SAC started and initialized|^SAC>", "windows", begins=True),
    _sign(Finding.RESCUE, r"You are in (?:rescue|emergency) mode", "linux", _TRIES, begins=True),
    _sign(Finding.PANIC, r"Kernel panic - not syncing", "linux", begins=True),
    _sign(Finding.PANIC, r"^panic: ", begins=True),
    _sign(Finding.SCREEN, r"<(?:Go Back|Continue|Cancel|Yes|No|Ok|OK)>", "", _CHOOSES, begins=True),
    _sign(Finding.OTHER, r"\A(?:SSH-\d|RFB \d{3}|HTTP/1|\{\"QMP\")", begins=True),
)
