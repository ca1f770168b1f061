"""What to do about what was found, for each operating system.  Pure.

``contrib/guest`` has most of it as files to copy, and says what of it has been tried.
"""

import enum
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from bridge.console.states import State
from bridge.doctor.signs import Finding


class Topic(enum.Enum):
    """What may have to be told to a guest."""

    HERE = "here"
    VM = "the VM"
    LOADER = "the boot loader"
    KERNEL = "the kernel"
    LOGIN = "the login"


@dataclass(frozen=True, slots=True)
class Hint:
    """One thing to do."""

    topic: str
    system: str
    """Whom it is for; empty: for all."""
    text: str


_KERNEL_LINE = "console=tty0 console=ttyS0,115200n8"

# Of systems that a sign can tell apart, and of those with other tools on the same kernel.
_FAMILY = {
    "linux": {"debian", "fedora", "alpine", "linux"},
    "alpine": {"alpine"},
    "windows": {"windows"},
    "freebsd": {"freebsd"},
    "openbsd": {"openbsd"},
}

_HINTS = {
    Topic.VM: {
        "": "-serial chardev:ID makes it the guest's first serial port, ttyS0 or COM1; a second"
        " -serial is another. A virtio console is hvc0, which no firmware or boot loader uses",
    },
    Topic.LOADER: {
        "debian": 'in /etc/default/grub.d/90-serial.cfg GRUB_TERMINAL="console serial" and'
        ' GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200", then update-grub',
        "fedora": "the same two in /etc/default/grub, then grub2-mkconfig -o /boot/grub2/grub.cfg",
        "alpine": "serial_port=0 and serial_baud=115200 in /etc/update-extlinux.conf, then"
        " update-extlinux",
        "freebsd": 'in /boot/loader.conf boot_multicons="YES", boot_serial="YES",'
        ' comconsole_speed="115200", console="comconsole,vidconsole" (UEFI: "comconsole,efi")',
        "openbsd": "in /etc/boot.conf: stty com0 115200, then: set tty com0; in the installer,"
        " the second at boot>",
        "windows": "as administrator: bcdedit /bootems {bootmgr} on",
    },
    Topic.KERNEL: {
        "debian": 'in /etc/default/grub.d/90-serial.cfg GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX'
        f' {_KERNEL_LINE}", then update-grub',
        "fedora": f'grubby --update-kernel=ALL --args="{_KERNEL_LINE}"',
        "alpine": "console=ttyS0,115200 in default_kernel_opts of /etc/update-extlinux.conf, then"
        " update-extlinux",
        "linux": f"append {_KERNEL_LINE} to the kernel's line (with e in GRUB's menu, for once);"
        " the last one named becomes /dev/console",
        "freebsd": "what the boot loader is told holds for the kernel",
        "openbsd": "what the boot loader is told holds for the kernel",
        "windows": "bcdedit /ems {current} on, and bcdedit /emssettings EMSPORT:1"
        " EMSBAUDRATE:115200; Server editions",
    },
    Topic.LOGIN: {
        "linux": "systemctl enable --now serial-getty@ttyS0 (systemd does it by itself from the"
        " next boot on where console=ttyS0 is on the kernel's line); for a virtio console, @hvc0",
        "alpine": "in /etc/inittab uncomment ttyS0::respawn:/sbin/getty -L ttyS0 115200 vt100",
        "freebsd": "in /etc/ttys: ttyu0 with 3wire and onifconsole secure; then kill -HUP 1",
        "openbsd": 'in /etc/ttys: tty00 "/usr/libexec/getty std.115200" vt220 on secure; then'
        " kill -HUP 1",
        "windows": "Enter at SAC>, then cmd, and ch -si 1 to go there",
    },
}

_SILENT_KERNEL = (Topic.KERNEL, Topic.LOGIN)

# What is lacking where this was the last that was seen, and nothing comes behind it.
_LACKING = {
    Finding.NOTHING: (Topic.VM, Topic.LOADER, *_SILENT_KERNEL),
    Finding.BIOS: (Topic.LOADER, *_SILENT_KERNEL),
    Finding.UEFI: (Topic.LOADER, *_SILENT_KERNEL),
    Finding.STARTED: (Topic.LOADER, *_SILENT_KERNEL),
    Finding.KERNEL: (Topic.LOGIN,),
    Finding.INIT: (Topic.LOGIN,),
    Finding.ECHO: _SILENT_KERNEL,
}

# In a word or two, what one does there.
_THERE = {
    Finding.BIOS: "Esc at its first line shows a menu; it prints here with -machine graphics=off",
    Finding.IPXE: "C-b while it says so leads to its prompt; help lists the commands",
    Finding.GRUB: "arrows and Enter choose; e edits the kernel's line for once; c is a prompt",
    Finding.LOADER: "its own keys choose; it waits for Enter, or for a time to pass",
    Finding.LOGIN: "log in. Without a password that you know: cloud-init, or a systemd credential"
    " (contrib/guest)",
    Finding.PASSWORD: "somebody began to log in; Enter three times leads back to the login",
    Finding.SHELL: "somebody has left it logged in; exit ends it",
    Finding.RESCUE: "journalctl -xb tells what failed, if there is a journal; exit goes on",
    Finding.SAC: "cmd makes a channel, ch -si 1 goes there, Esc Tab Enter comes back",
    Finding.PAGER: "q leaves it, blank shows more",
    Finding.SCREEN: "attach with a terminal of at least 80x24; C-l has most programs draw anew",
    Finding.QUESTION: "attach and answer it",
    Finding.PANIC: "it will not go on by itself: reset the VM; panic=10 on the kernel's line"
    " would have it do so",
    Finding.MONITOR: "quit would end the VM. The guest's port is another chardev; with"
    " -serial mon:..., C-a c changes between the two",
    Finding.ECHO: "the guest's terminal returns it, and no program reads it, or one that says"
    " nothing; C-c may end that",
    Finding.TELNET: "the chardev has telnet=on, whose negotiation is mixed with the guest's bytes:"
    " leave that option out",
    Finding.OTHER: "the URL leads to something else: compare its port with the -chardev's",
    Finding.UNKNOWN: "attach and look; the last line is shown above",
    Finding.NOTHING: "if the VM is paused or has halted it says nothing either; where the URL is"
    " tcp:// or unix://, is there no websocket=on in its -chardev?",
}

_STALE = (
    "the prompt was printed before: since then the guest hangs, is paused, has halted, or was"
    " started anew and does not use this port"
)

_STATES = {
    State.CONNECTING: "wait until it has connected, and ask again",
    State.BUSY: "QEMU serves one client: end the other one (ttybridge discover may tell which), or"
    " attach by way of the ttybridge that has it",
    State.WAITING: "start the VM, with -chardev socket,id=c,websocket=on,host=127.0.0.1,"
    "port=PORT,server=on,wait=off -serial chardev:c and the URL's port",
    State.FAILED: "ws:// wants websocket=on in the -chardev, and the path /; tcp:// wants it"
    " without; then attach, or: ttybridge reload",
}


_UNKNOWN_HOST = "nobody knows the host by that name: mend the URL, or give the host's address"


def for_state(state: State, reason: str = "") -> list[Hint]:
    """For a console that is not online, for a ``reason``."""
    if reason.startswith("host name: "):
        return [Hint(Topic.HERE.value, "", _UNKNOWN_HOST)]
    return [Hint(Topic.VM.value, "", _STATES[state])]


def for_stale() -> list[Hint]:
    """For a prompt that does not answer."""
    return [Hint(Topic.HERE.value, "", _STALE)]


def for_finding(
    finding: Finding, stages: Sequence[Finding], systems: AbstractSet[str], *, silent: bool
) -> list[Hint]:
    """For what there is; ``stages`` are those that it has gone through.

    ``silent``: nothing came behind it, nor to Enter.  ``systems`` are those that showed themselves; of
    others nothing need be said.
    """
    hints = [Hint(Topic.HERE.value, "", _THERE[finding])] if finding in _THERE else []
    if finding is Finding.ECHO and stages:
        finding = stages[-1]  # that it returns Enter makes no difference to what is lacking
    if silent:
        for topic in _LACKING.get(finding, ()):
            hints += _hints(topic, systems)
    return hints


def _hints(topic: Topic, systems: AbstractSet[str]) -> Iterator[Hint]:
    wanted = {member for system in systems for member in _FAMILY[system]}
    for system, text in _HINTS[topic].items():
        if not system or not wanted or system in wanted:
            yield Hint(topic.value, system, text)
