"""``contrib/guest``: what can be tried here is."""

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from bridge.doctor.diagnosis import PASSING, SAID, USABLE
from bridge.doctor.signs import Finding
from bridge.settings.url import UpstreamUrl
from tests.conftest import Boot
from tests.support.bridge import Bridge
from tests.support.client import Client
from tests.support.qemu import free_port
from tests.support.user import REPOSITORY, User

GUEST = REPOSITORY / "contrib" / "guest"
TEXT = (GUEST / "README.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The table of the index that is headed so."""
    match = re.search(rf"^\| {heading} \|.*\n\|[-| ]+\|\n((?:\|.*\|\n)+)", TEXT, re.MULTILINE)
    assert match is not None
    return [row.strip("| ").split(" | ") for row in match[1].splitlines()]


def test_the_index_names_every_file() -> None:
    named = {row[0].strip("`/") for row in rows("file")}
    assert named == {path.name for path in GUEST.iterdir()} - {"README.md"}


def test_the_index_names_every_finding() -> None:
    def exits(finding: Finding) -> str:
        return "yes" if finding in USABLE else "while it prints" if finding in PASSING else "no"

    assert rows("finding") == [[f"`{f.value}`", SAID[f], exits(f)] for f in Finding]


def test_grub_settings_are_shell_and_add_to_what_is_there() -> None:
    """As grub-mkconfig reads them: it sources each."""
    file = GUEST / "90-serial.cfg"
    subprocess.run(["sh", "-n", file], check=True)
    script = 'GRUB_CMDLINE_LINUX=quiet; . "$1"; set | grep ^GRUB_'
    done = subprocess.run(
        ["sh", "-euc", script, "sh", file], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "GRUB_CMDLINE_LINUX='quiet console=tty0 console=ttyS0,115200n8'",
        "GRUB_SERIAL_COMMAND='serial --unit=0 --speed=115200 --word=8 --parity=no --stop=1'",
        "GRUB_TERMINAL='console serial'",
    ]


def test_cloud_init_seed_is_yaml_with_the_same_settings() -> None:
    text = (GUEST / "cloud-init" / "user-data").read_text()
    assert text.startswith("#cloud-config\n")
    data = yaml.safe_load(text)
    (file,) = data["write_files"]
    grub = (GUEST / "90-serial.cfg").read_text()
    assert file["content"].splitlines() == [x for x in grub.splitlines() if not x.startswith("#")]
    assert data["users"][1]["name"] == data["chpasswd"]["users"][0]["name"]
    assert "serial-getty@ttyS0" in str(data["runcmd"])
    for _, _, script in data["runcmd"]:
        subprocess.run(["sh", "-nc", script], check=True)
    assert {"instance-id", "local-hostname"} == set(
        yaml.safe_load((GUEST / "cloud-init" / "meta-data").read_text())
    )


def test_libvirt_serial_ports_are_where_their_urls_say() -> None:
    tree = ET.parse(GUEST / "libvirt.xml")
    unix, tcp = (source.attrib for source in tree.findall("./devices/serial/source"))
    text = (GUEST / "libvirt.xml").read_text()
    for url in (f"unix://{unix['path']}", f"tcp://{tcp['host']}:{tcp['service']}"):
        assert url in text
        assert UpstreamUrl.parse(url).lossless


def test_libvirt_websocket_arguments_are_qemus(user: User, directory: Path, boot: Boot) -> None:
    """QEMU takes them, and a websocket is there."""
    tree = ET.parse(GUEST / "libvirt-websocket.xml")
    names = {"qemu": "http://libvirt.org/schemas/domain/qemu/1.0"}
    arguments = [each.attrib["value"] for each in tree.findall(".//qemu:arg", names)]
    port = free_port()
    boot("deaf", more=[word.replace("port=4555", f"port={port}") for word in arguments])
    with Bridge(user, directory / "run", f"vm2=ws://127.0.0.1:{port}") as bridge:
        bridge.wait_message("vm2: ONLINE")


def test_virt_install_is_shell_and_says_how_it_is_used() -> None:
    script = GUEST / "virt-install"
    subprocess.run(["sh", "-n", script], check=True)
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "virt-install NAME SOCKET" in done.stderr


def test_the_guest_sees_the_credentials(
    user: User, directory: Path, boot: Boot, linux: Path
) -> None:
    """In the tables of its firmware, where systemd looks for them."""
    words = re.findall(r"^(-smbios) (\S+)$", TEXT, re.MULTILINE)[0]
    assert words[1] == "type=11,value=io.systemd.credential:getty.ttys.serial=ttyS0"
    vm = boot("linux", linux=linux, more=words)
    with Bridge(user, directory / "run", f"vm={vm.url}") as bridge, Client(bridge.raw) as client:
        client.socket.settimeout(60)
        client.read_until(b"guest# ")
        # Short: the guest's shell wraps a line at 80.
        client.type(b"cd /sys/firmware/dmi/tables\r")
        assert b"1\r" in client.ask("grep -c credential:getty.ttys.serial=ttyS0 DMI")
