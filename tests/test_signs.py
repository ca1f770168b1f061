"""Who is at a console's other end, by what was printed there.

Recorded output is in ``tests/recorded``.  The texts in the table below are from the
documentation of those systems, or from their sources: no such guest runs here.
"""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.console.states import State
from bridge.doctor.advice import for_state
from bridge.doctor.examination import ANSWER, KEPT, PATIENCE, QUIET, Examination, Step
from bridge.doctor.reading import read
from bridge.doctor.signs import STAGES, TRACES, Finding

RECORDED = Path(__file__).parent / "recorded"

F = Finding


@pytest.mark.parametrize(
    ("name", "finding", "trail", "safe"),
    [
        ("seabios", F.BIOS, [F.BIOS], True),
        ("ipxe", F.IPXE, [F.BIOS, F.IPXE], True),
        ("grub-menu", F.GRUB, [F.BIOS, F.GRUB], False),
        ("grub-prompt", F.GRUB, [F.GRUB], True),
        ("uefi-shell", F.UEFI, [F.UEFI], True),
        ("linux", F.SHELL, [F.KERNEL], True),
        ("firstboot", F.QUESTION, [F.KERNEL, F.INIT, F.QUESTION], False),
        ("shell", F.SHELL, [F.LOGIN], True),
        ("systemd", F.LOGIN, [F.KERNEL, F.INIT, F.LOGIN], True),
    ],
)
def test_recorded_output_is_known(
    name: str, finding: Finding, trail: list[Finding], safe: bool
) -> None:
    reading = read((RECORDED / name).read_bytes())
    assert (reading.finding, list(reading.trail)) == (finding, trail)
    assert (reading.enter == "") is safe


def test_recorded_output_is_known_at_every_stage() -> None:
    """Cut anywhere, a boot only goes on: no stage is taken back, none is made up."""
    for name, allowed in (("linux", {F.KERNEL}), ("systemd", {F.KERNEL, F.INIT, F.LOGIN})):
        output = (RECORDED / name).read_bytes()
        ranks = []
        for end in range(0, len(output), 97):
            trail = read(output[:end]).trail
            assert set(trail) <= allowed
            ranks.append(max((STAGES.index(each) for each in trail), default=-1))
        assert ranks == sorted(ranks)


DOCUMENTED = [
    # Microsoft's documentation of EMS.
    ("Computer is booting, SAC started and initialized.\r\n\r\nSAC>", F.SAC, "", "windows"),
    ("\r\nEVENT: The CMD command is now available.\r\nSAC>c", F.SAC, "enter", "windows"),
    ("Microsoft Windows [Version 10.0.20348.1]\r\n\r\nC:\\Windows\\system32>", F.SHELL, "", "windows"),
    # FreeBSD's handbook, boot(8), loader(8).
    ("BTX loader 1.00  BTX version is 1.02\r\n", F.LOADER, "", "freebsd"),
    ("| 1. Boot Multi user [Enter]\r\n| 2. Boot Single user\r\n", F.LOADER, "boot", "freebsd"),
    ("Type '?' for a list of commands\r\nOK ", F.LOADER, "", "freebsd"),
    ("FreeBSD/amd64 (bsd) (ttyu0)\r\n\r\nlogin: ", F.LOGIN, "", None),
    ("Copyright (c) 1992-2023 The FreeBSD Project.\r\n", F.KERNEL, "", "freebsd"),
    # OpenBSD's boot(8).
    (">> OpenBSD/amd64 BOOT 3.65\r\nboot> ", F.LOADER, "boot", "openbsd"),
    ("OpenBSD 7.5 (GENERIC.MP) #82: Wed\r\n\r\nOpenBSD/amd64 (foo) (tty00)\r\n\r\nlogin: ", F.LOGIN, "", "openbsd"),
    # Alpine's init and getty.
    ("\r\n   OpenRC 0.48 is starting up Linux 6.1 (x86_64)\r\n", F.INIT, "", "alpine"),
    ("Welcome to Alpine Linux 3.19\r\nKernel 6.6 on an x86_64 (/dev/ttyS0)\r\n\r\nlocalhost login: ", F.LOGIN, "", None),
    # U-Boot's and syslinux' documentation.
    ("U-Boot 2023.01 (Jan 1 2023)\r\nHit any key to stop autoboot:  0 \r\n=> ", F.LOADER, "repeat", None),
    ("ISOLINUX 6.04 Copyright (C) 1994-2015 H. Peter Anvin\r\nboot: ", F.LOADER, "boot", None),
    # GRUB and the kernel that it starts, without a console for it.
    ("Welcome to GRUB!\r\n  Booting `Debian GNU/Linux'\r\n\r\nLoading Linux 6.1.0-18-amd64 ...\r\nLoading initial ramdisk ...", F.STARTED, "", None),
    ("error: unknown filesystem.\r\nEntering rescue mode...\r\ngrub rescue> ", F.GRUB, "", None),
    # initramfs-tools, systemd's emergency.service, the kernel's panic.
    ("ALERT!  /dev/vda1 does not exist.  Dropping to a shell!\r\n(initramfs) ", F.RESCUE, "", "linux"),
    ('You are in emergency mode. After logging in, type "journalctl -xb"\r\nGive root password for maintenance\r\n(or press Control-D to continue): ', F.RESCUE, "password", "linux"),
    ("[    1.2] x\r\n[    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    1.234599] ---[ end Kernel panic - not syncing: VFS ]---\r\n", F.PANIC, "", "linux"),
    # systemd-cryptsetup, sudo, login(1).
    ("Please enter passphrase for disk vda (root): ", F.PASSWORD, "password", None),
    ("vm login: root\r\nPassword: ", F.PASSWORD, "password", None),
    # less(1), more(1), systemctl's pager.
    ("some text\r\n--More--(12%)", F.PAGER, "page", None),
    ("some text\r\n\x1b[7m(END)\x1b[27m", F.PAGER, "page", None),
    ("some text\r\n\x1b[7mlines 1-23/54\x1b[27m", F.PAGER, "page", None),
    # xterm's control sequences, debian-installer's dialogs.
    ("$ vi x\r\n\x1b[?1049h\x1b[1;1Hhello\x1b[24;1H", F.SCREEN, "program", None),
    ("$ vi x\r\n\x1b[?1049h\x1b[1;1Hhello\x1b[?1049l$ ", F.SHELL, "", None),
    ("\x1b[20;3H    <Go Back>            <Continue>\x1b[24;1H", F.SCREEN, "menu", None),
    # apt, ssh.
    ("Do you want to continue? [Y/n] ", F.QUESTION, "answer", None),
    ("Are you sure you want to continue connecting (yes/no/[fingerprint])? ", F.QUESTION, "answer", None),
    # Shells, with nothing and with something typed at them.
    ("root@vm:~# ", F.SHELL, "", None),
    ("\x1b[?2004h[root@vm ~]# ", F.SHELL, "", None),
    ("root@vm:~# rm -rf /tmp/x", F.SHELL, "typed", None),
    ("[root@vm ~]# reboot", F.SHELL, "typed", None),
    ("bob@vm ~ $ reboot", F.SHELL, "typed", None),
    ("guest# ls\r\n", F.UNKNOWN, "", None),
    ("######################                45%", F.UNKNOWN, "last line", None),
    ("Configuring (net0 52:54:00:12:34:56)...", F.IPXE, "", None),
    # Who is no console: RFC 4253, RFC 6143, RFC 9112, QEMU's QMP.
    ("SSH-2.0-OpenSSH_9.2p1\r\n", F.OTHER, "", None),
    ("RFB 003.008\n", F.OTHER, "", None),
    ('{"QMP": {"version": {}}}\r\n', F.OTHER, "", None),
    ("\r\n \r\n", F.NOTHING, "", None),
    ("", F.NOTHING, "", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "finding", "enter", "system"), DOCUMENTED)
def test_documented_output_is_known(
    text: str, finding: Finding, enter: str, system: str | None
) -> None:
    reading = read(text.encode())
    assert reading.finding is finding, reading
    assert enter in reading.enter
    assert bool(enter) == bool(reading.enter), reading.enter
    if system is not None:
        assert system in reading.systems


def test_telnet_is_known_by_its_negotiation() -> None:
    """QEMU's, with telnet=on, before all else."""
    greeting = bytes.fromhex("fffb01 fffb03 fffb00 fffd00")
    assert read(greeting).finding is F.TELNET
    reading = read(greeting + b"\r\nvm login: ")
    assert (reading.finding, reading.trail) == (F.LOGIN, (F.TELNET, F.LOGIN))


def test_a_reboot_ends_what_was_seen_before_it() -> None:
    boot = (RECORDED / "systemd").read_bytes()
    again = boot + b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n"
    assert read(again).trail == (F.BIOS,)
    assert read(again + boot).trail == (F.BIOS, F.KERNEL, F.INIT, F.LOGIN)


def test_a_kernel_message_does_not_hide_how_far_it_has_come() -> None:
    boot = (RECORDED / "systemd").read_bytes()
    reading = read(boot + b"\r\n[   99.123456] random: crng init done\r\n")
    assert reading.trail[-1] is F.LOGIN
    assert not reading.prompt


@given(st.binary())
def test_any_output_can_be_read(output: bytes) -> None:
    reading = read(output)
    assert "\n" not in reading.last


# What many patterns begin with, and what they go on with.
HEADS = ["a@", "--More--", "FreeBSD/", "password", "login: ", "[", "a# ", "iPXE 1", "iPXE> ", ">> OpenBSD/", "lines 1-2", "\x1b[", "\xff\xfb\x01", "Booting from x", "error: .", "SAC>", "C:\\"]  # fmt: skip


@pytest.mark.parametrize("end", ["", "\n", "\nx"])
@pytest.mark.parametrize("head", HEADS)
def test_no_output_takes_long(head: str, end: str) -> None:
    """Time grows with the length, not with its square."""
    output = (head * (KEPT // len(head)) + end).encode("latin-1")
    began = time.process_time()
    read(output)
    assert time.process_time() - began < 5


@given(st.lists(st.sampled_from([s.pattern.pattern for s in TRACES] + ["\n", "# ", "login: "])))
def test_stages_are_in_the_order_of_a_boot(parts: list[str]) -> None:
    ranks = [STAGES.index(each) for each in read("".join(parts).encode()).trail]
    assert ranks == sorted(set(ranks))


def test_a_silent_console_is_pressed_once_and_then_given_time() -> None:
    examination = Examination(100.0)
    assert examination.step(100.0) is Step.LISTEN
    assert examination.deadline == 100.0 + QUIET
    assert examination.step(100.0 + QUIET) is Step.PRESS
    examination.pressed(102.0)
    assert examination.step(102.0 + QUIET) is Step.LISTEN
    examination.receive(b"\r\nvm login: ", 104.0)
    assert examination.step(104.0 + QUIET / 2) is Step.LISTEN
    assert examination.step(104.0 + QUIET) is Step.DONE
    assert not examination.talking
    assert 102.0 + ANSWER > 104.0  # or it would have been over before


def test_one_who_never_answers_is_left() -> None:
    examination = Examination(0.0)
    examination.pressed(1.0)
    assert examination.step(1.0 + ANSWER) is Step.DONE
    assert (examination.answer, examination.talking) == (b"", False)


def test_one_who_never_stops_is_not_typed_at() -> None:
    examination, now = Examination(0.0), 0.0
    while examination.step(now) is Step.LISTEN:
        now += QUIET / 2
        examination.receive(b"[    1.234567] usb: something\r\n", now)
        assert now <= PATIENCE + QUIET
    assert examination.step(now) is Step.DONE
    assert (examination.talking, examination.answer) == (True, None)
    assert examination.restraint


@pytest.mark.parametrize("text", [text for text, _, enter, _ in DOCUMENTED if enter])
def test_where_enter_would_do_something_it_is_not_pressed(text: str) -> None:
    examination = Examination(0.0)
    examination.receive(text.encode(), 0.1)
    assert examination.step(0.1 + QUIET) is Step.DONE
    assert examination.restraint.startswith("Enter could ")


def test_a_host_that_nobody_knows_is_not_a_vm_to_be_started() -> None:
    (hint,) = for_state(State.WAITING, "host name: Name or service not known")
    assert "mend the URL" in hint.text
    (hint,) = for_state(State.WAITING, "connection refused")
    assert "start the VM" in hint.text
