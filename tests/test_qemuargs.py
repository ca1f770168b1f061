"""Every spelling of a console on a command line: as a table, and asked of QEMU itself."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.vms.qemuargs import FLAGS, Chardev, Fd, Tcp, Unix, parse_argv
from bridge.vms.qmp import CHARDEVS, SocketInfo
from tests.support.qemu import free_port
from tests.support.user import User


@dataclass(frozen=True)
class Spelling:
    """Words of a command line with PORT and DIR in them, and what they mean.

    ``kind`` is what QMP calls it: websocket, telnet, tcp or unix.
    """

    words: str
    id: str
    device: str | None
    kind: str = "websocket"
    host: str = "127.0.0.1"
    path: str = ""
    mux: bool = False
    websocket: bool = True
    port: int | None = None


BASE = "id=c,server=on,wait=off,websocket=on,host=127.0.0.1,port=PORT"
C = "-serial chardev:c"

SPELLINGS = [
    Spelling(f"-chardev socket,{BASE} {C}", "c", "isa-serial"),
    Spelling(f"--chardev socket,{BASE} -serial chardev:c", "c", "isa-serial"),
    Spelling(f"-chardev backend=socket,{BASE} {C}", "c", "isa-serial"),
    Spelling(
        f"-chardev port=PORT,websocket=on,wait=off,host=127.0.0.1,server=on,id=c,backend=socket {C}",
        "c",
        "isa-serial",
    ),
    *(
        Spelling(
            f"-chardev socket,id=c,host=127.0.0.1,port=PORT,server={on},websocket={on},wait={off} {C}",
            "c",
            "isa-serial",
        )
        for on, off in (("yes", "no"), ("true", "false"), ("y", "n"))
    ),
    Spelling(
        f"-chardev socket,id=c,host=127.0.0.1,port=PORT,server,nowait,nodelay,websocket {C}",
        "c",
        "isa-serial",
    ),
    Spelling(f"-chardev socket,{BASE},delay=off,port=1,port=PORT {C}", "c", "isa-serial"),
    Spelling(f"-chardev socket,{BASE},websocket=off,websocket=on {C}", "c", "isa-serial"),
    Spelling(f"-chardev socket,{BASE},nodelay=on,ipv4=on {C}", "c", "isa-serial"),
    Spelling(
        f"-chardev socket,id=c,server=on,wait=off,websocket=on,host=::1,port=PORT,ipv6=on {C}",
        "c",
        "isa-serial",
        host="::1",
    ),
    Spelling(
        f"-chardev socket,id=c,server=on,wait=off,websocket=on,host=,port=PORT {C}",
        "c",
        "isa-serial",
        host="0.0.0.0",
    ),
    Spelling(f"-chardev socket,{BASE},telnet=on {C}", "c", "isa-serial", kind="telnet"),
    Spelling(f"-chardev socket,{BASE},mux=on {C} -mon c", "c", "isa-serial", mux=True),
    Spelling(f"-chardev socket,{BASE},logfile=DIR/log,logappend=on {C}", "c", "isa-serial"),
    Spelling(
        f"-chardev socket,id=c,path=DIR/a,,b.sock,server=on,wait=off,websocket=on {C}",
        "c",
        "isa-serial",
        kind="unix",
        path="DIR/a,b.sock",
    ),
    Spelling(
        f"-chardev socket,id=c,path=DIR/x,abstract=on,server=on,wait=off,websocket=on {C}",
        "c",
        "isa-serial",
        kind="unix",
        path="@DIR/x",
    ),
    Spelling(
        f"-chardev socket,id=c,path=DIR/x,abstract=on,tight=off,server=on,wait=off {C}",
        "c",
        "isa-serial",
        kind="unix",
        path="@DIR/x",
        websocket=False,
    ),
    Spelling(
        f"-chardev socket,{BASE},websocket=off -set chardev.c.websocket=on {C}", "c", "isa-serial"
    ),
    Spelling(f"-readconfig DIR/c.cfg {C}", "c", "isa-serial"),
    Spelling(f"-chardev socket,{BASE} -device isa-serial,chardev=c", "c", "isa-serial"),
    Spelling(f"-chardev socket,{BASE} -device pci-serial,chardev=c", "c", "pci-serial"),
    Spelling(f"-chardev socket,{BASE} -device driver=isa-serial,chardev=c", "c", "isa-serial"),
    Spelling(
        f'-chardev socket,{BASE} -device {{"driver":"isa-serial","chardev":"c"}}', "c", "isa-serial"
    ),
    Spelling(
        f"-chardev socket,{BASE} -device virtio-serial-pci -device virtconsole,chardev=c",
        "c",
        "virtconsole",
    ),
    Spelling(f"-chardev socket,{BASE} -device isa-debugcon,chardev=c", "c", "isa-debugcon"),
    Spelling(f"-chardev socket,{BASE} -mon chardev=c,mode=readline", "c", "monitor"),
    Spelling(f"-chardev socket,{BASE} -mon chardev=c,mode=control", "c", "qmp"),
    Spelling(f"-chardev socket,{BASE}", "c", None),
    Spelling("-serial websocket:127.0.0.1:PORT,server=on,wait=off", "serial0", "isa-serial"),
    Spelling(
        "-serial none -serial websocket::PORT,server,nowait",
        "serial1",
        "isa-serial",
        host="0.0.0.0",
    ),
    Spelling("-serial tcp:127.0.0.1:PORT,server=on,wait=off,websocket=on", "serial0", "isa-serial"),
    Spelling(
        "-serial telnet:127.0.0.1:PORT,server=on,wait=off,websocket=on",
        "serial0",
        "isa-serial",
        kind="telnet",
    ),
    Spelling(
        "-serial unix:DIR/s,server=on,wait=off,websocket=on",
        "serial0",
        "isa-serial",
        kind="unix",
        path="DIR/s",
    ),
    Spelling(
        "-serial mon:websocket:127.0.0.1:PORT,server=on,wait=off", "serial0", "isa-serial", mux=True
    ),
    Spelling("-parallel websocket:127.0.0.1:PORT,server,nowait", "parallel0", "isa-parallel"),
    Spelling("-debugcon websocket:127.0.0.1:PORT,server,nowait", "debugcon", "isa-debugcon"),
    # The QMP of the test itself is compat_monitor0.
    Spelling("-monitor websocket:127.0.0.1:PORT,server,nowait", "compat_monitor1", "monitor"),
    Spelling(
        "-qmp tcp:127.0.0.1:PORT,server=on,wait=off",
        "compat_monitor1",
        "qmp",
        kind="tcp",
        websocket=False,
    ),
    Spelling(
        "-qmp-pretty unix:DIR/q,server,nowait",
        "compat_monitor1",
        "qmp",
        kind="unix",
        path="DIR/q",
        websocket=False,
    ),
    Spelling("-gdb tcp:127.0.0.1:PORT", "gdb", "gdb", kind="tcp", websocket=False),
    Spelling(
        "-serial tcp:127.0.0.1:PORT,server=on,wait=off",
        "serial0",
        "isa-serial",
        kind="tcp",
        websocket=False,
    ),
]

CONFIG = """\
# as -writeconfig wrote it
[chardev "c"]
  backend = "socket"
  host = "127.0.0.1"
  port = "PORT"
  server = "on"
  wait = "off"
  websocket = "on"
"""

QEMU = ["qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-m", "16", "-S"]


def parse(words: list[str], config: str = "") -> dict[str, Chardev]:
    machine = parse_argv(["qemu-system-x86_64", *words], lambda path: config or None)
    return {chardev.id: chardev for chardev in machine.chardevs}


def check(spelling: Spelling, chardev: Chardev, directory: str, port: int) -> None:
    """What we read is what the spelling means."""
    path = spelling.path.replace("DIR", directory)
    if spelling.kind == "unix":
        assert chardev.address == Unix(path.removeprefix("@"), abstract=path.startswith("@"))
    else:
        assert isinstance(chardev.address, Tcp)
        assert chardev.address.port == port
        assert chardev.address.host == ("" if spelling.host == "0.0.0.0" else spelling.host)
    assert chardev.server
    assert chardev.websocket is spelling.websocket
    assert chardev.telnet is (spelling.kind == "telnet")
    assert chardev.mux is spelling.mux
    assert chardev.device == spelling.device


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda s: s.words)
def test_spelling_as_qemu_reads_it(
    spelling: Spelling, tools: None, user: User, directory: Path
) -> None:
    """A real QEMU is started with it, and says of the same chardev what we have read."""
    port = free_port()
    config = CONFIG.replace("PORT", str(port))
    (directory / "c.cfg").write_text(config)
    (directory / "c.cfg").chmod(0o644)
    text = spelling.words.replace("PORT", str(port)).replace("DIR", str(directory))
    words = ["-qmp", "stdio", *text.split(" ")]
    chardev = parse(words, config)[spelling.id]
    check(spelling, chardev, str(directory), port)

    seen = ask_qemu(user, words)
    row = seen.get(f"{spelling.id}-base") or seen[spelling.id]
    assert (f"{spelling.id}-base" in seen) is spelling.mux
    path = spelling.path.replace("DIR", str(directory))
    where = ("", None) if spelling.kind == "unix" else (spelling.host, port)
    assert (row.kind, row.path, (row.host, row.port)) == (spelling.kind, path, where)
    assert row.server is chardev.server
    assert not row.connected


def ask_qemu(user: User, words: list[str]) -> dict[str, SocketInfo]:
    commands = ("qmp_capabilities", "query-chardev", "quit")
    asked = "".join(json.dumps({"execute": command}) for command in commands)
    done = user.run([*QEMU, *words], input=asked.encode())
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    lists = [a["return"] for a in answers if isinstance(a.get("return"), list)]
    assert lists, done.stderr
    rows = CHARDEVS.read(lists[0])
    return {row.label: row.socket for row in rows if row.socket is not None}


def test_the_rest_of_a_chardev() -> None:
    chardevs = parse(
        [
            *("-chardev", "socket,id=a,host=h,port=0,to=9,ipv6=on,ipv4=off,tls-creds=t,server=on"),
            *("-chardev", "socket,id=b,fd=3,server=on,logfile=/l,,og"),
            *("-chardev", "socket,id=n,fd=name,server=on"),
            *("-chardev", "socket,id=nowhere,port=4555,server=on"),
            *("-chardev", "socket,id=client,host=h,port=http"),
            *("-chardev", "file,id=f,path=/x"),
            *("-device", "pci-serial-2x,chardev1=a,chardev2=b"),
            *("-set", "device.none.chardev=x"),
        ]
    )
    assert chardevs["a"].address == Tcp("h", 0, 9, ipv4=False)
    assert chardevs["a"].tls
    assert chardevs["b"].address == Fd(3)
    assert chardevs["b"].logfile == "/l,og"
    assert [chardevs[i].device for i in "ab"] == ["pci-serial-2x"] * 2
    assert chardevs["n"].address == Fd(None)
    assert chardevs["nowhere"].address is None
    assert chardevs["client"].address == Tcp("h", None)
    assert not chardevs["client"].server
    assert "f" not in chardevs


def test_order_is_that_in_which_qemu_opens_them() -> None:
    words = "-serial tcp::1,server -gdb tcp::2 -monitor tcp::3,server -chardev socket,id=c,fd=1"
    assert list(parse(words.split())) == ["compat_monitor0", "c", "serial0", "gdb"]


@pytest.mark.parametrize(
    ("words", "name", "disk"),
    [
        (["-name", "vm1"], "vm1", None),
        (["-name", "guest=vm1,process=x"], "vm1", None),
        (["-name", "process=x,guest=a,,b"], "a,b", None),
        (["-name", "a", "-name", "b,debug-threads=on"], "b", None),
        (["-name", "a", "-name", "process=x"], "a", None),
        (
            ["-drive", "if=pflash,file=/fw", "-drive", "file=/vm/d.qcow2,if=none"],
            None,
            "/vm/d.qcow2",
        ),
        (["-blockdev", '{"driver":"file","filename":"/vm/d.img"}'], None, "/vm/d.img"),
        (["-hda", "d.img", "-cdrom", "x.iso"], None, "d.img"),
        (["-m", "1G", "disk.img"], None, "disk.img"),
        (["-append", "-name", "-snapshot", "-name", "x"], "x", None),
        ([], None, None),
    ],
)
def test_names(words: list[str], name: str | None, disk: str | None) -> None:
    machine = parse_argv(["qemu-system-x86_64", *words], lambda _: None)
    assert (machine.name, machine.disk) == (name, disk)


def test_values_of_other_options_are_no_options() -> None:
    words = [
        "-append",
        "-serial",
        "-kernel",
        "websocket::1,server",
        "-S",
        "-serial",
        "tcp::2,server",
    ]
    assert list(parse(words)) == ["serial0"]


def test_another_architecture_has_no_isa() -> None:
    machine = parse_argv(["qemu-system-aarch64", "-serial", "tcp::1,server"], lambda _: None)
    assert machine.chardevs[0].device == "serial"


def test_a_file_that_cannot_be_read_is_named() -> None:
    machine = parse_argv(["qemu-system-x86_64", "-readconfig", "/x"], lambda _: None)
    assert machine.unread == ("/x",)


def test_flags_are_those_of_this_qemu(tools: None, user: User) -> None:
    """Else a flag would swallow the word that follows it."""
    text = user.run(["qemu-system-x86_64", "-help"]).stdout
    ours = parse_help(text) - {"dtb"}  # whose line in the help text is like a flag's
    assert "S" in ours
    assert "serial" not in ours
    assert ours <= FLAGS


def parse_help(text: str) -> set[str]:
    """The options that stand alone: at least two blanks or nothing but blanks follow."""
    names = set()
    for line in text.splitlines():
        if match := re.match(r"--?([a-zA-Z][\w-]*)(?: or .*|\s{2,}.*|\s*|\t.*)$", line):
            names.add(match[1])
    return names


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_no_command_line_raises(words: list[str]) -> None:
    parse_argv(words, lambda path: path)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["-chardev", "-serial", "-device", "-mon", "-set", "-name", "-drive"]),
            st.text(),
        )
    )
)
def test_no_option_raises(options: list[tuple[str, str]]) -> None:
    parse_argv(["qemu", *(word for option in options for word in option)], lambda path: path)
