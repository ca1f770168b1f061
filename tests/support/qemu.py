"""Real virtual machines: boot sectors of a few bytes, and a small Linux."""

import json
import os
import random
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.support.user import User
from tests.support.waiting import eventually

# x86 boot sectors on COM1, without and with its FIFO on.  A sector is 512 bytes, and ends
# with the signature 55 aa.
SECTORS = {
    # Returns each byte; the FIFO stays off, as the firmware leaves it.
    "echo": "fabafd03eca80174fbbaf803ec88c3bafd03eca82074fbbaf80388d8eeebe2",
    # The same with a FIFO of 16 bytes.
    "echofifo": "fabafa03b0c7eebafd03eca80174fbbaf803ec88c3bafd03eca82074fbbaf80388d8eeebe2",
    # Prints an eight-digit hexadecimal counter and LF for ever.
    "flood": "fa6631dbb908006689de66c1c60489f0240f04303c3976020407e80b00e2ebb00ae804006643ebdc"
    "88c4bafd03eca82074fbbaf80388e0eec3",
    # Never reads, never writes.
    "deaf": "faf4ebfd",
}


# URLs, by whether it is a websocket, and what carries it.
_SCHEMES = {
    (True, "tcp"): "ws",
    (True, "tls"): "wss",
    (True, "unix"): "ws+unix",
    (False, "tcp"): "tcp",
    (False, "tls"): "tls",
    (False, "unix"): "unix",
}

# Between the machine and its chardev.
UART = ("-serial", "chardev:c")
MONITOR = ("-mon", "chardev=c")
VIRTIO = ("-device", "virtio-serial", "-device", "virtconsole,chardev=c")


def free_port() -> int:
    """A loopback port that nobody has just now, nor will get by asking for any.

    A port that the kernel chose would be given to the next who asks, too; so it is one from
    below its range (ip(7), ip_local_port_range).
    """
    while True:
        port = random.randrange(10_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Qemu:
    """One VM with its serial port as a websocket server; a context."""

    def __init__(
        self,
        user: User,
        directory: Path,
        guest: str,
        *,
        port: int | None = None,
        linux: Path | None = None,
        unix: bool = False,
        talkative: bool = False,
        websocket: bool = True,
        tls: Path | None = None,
        verify_peer: bool = False,
        monitor: bool = False,
        virtio: bool = False,
        name: str = "vm",
        more: Sequence[str] = (),
    ) -> None:
        """``tls`` is a directory with the server's certificates.

        ``monitor`` puts QEMU's own at the console, which reads whatever it is sent;
        ``virtio`` a virtio console in place of the UART; ``more`` are words for QEMU.
        """
        self._directory = directory
        self._user = user
        self.port = port or free_port()
        self.path = directory / "serial.sock"
        scheme = _SCHEMES[websocket, "unix" if unix else "tls" if tls else "tcp"]
        self.url = f"{scheme}://{self.path}" if unix else f"{scheme}://127.0.0.1:{self.port}"
        where = f"path={self.path}" if unix else f"host=127.0.0.1,port={self.port}"
        credentials = []
        if tls is not None:
            where += ",tls-creds=tls0"
            # Without its check of what it offers itself QEMU takes an expired certificate.
            verify = f"verify-peer={'on' if verify_peer else 'off'},sanity-check=off"
            credentials = [
                *("-object", f"tls-creds-x509,id=tls0,endpoint=server,dir={tls},{verify}")
            ]
        kind = "websocket=on," if websocket else ""
        self._qmp_path = directory / "qmp.sock"
        self._command = [
            "qemu-system-x86_64",
            *("-name", name, "-accel", "tcg", "-nodefaults", "-display", "none"),
            *credentials,
            *("-chardev", f"socket,id=c,{kind}{where},server=on,wait=off"),
            *(MONITOR if monitor else VIRTIO if virtio else UART),
            *("-qmp", f"unix:{self._qmp_path},server=on,wait=off"),
            *self._machine(guest, linux, "earlyprintk=ttyS0" if talkative else "quiet"),
            *more,
        ]
        if virtio:
            self._command = [
                word.replace("console=ttyS0", "console=hvc0") for word in self._command
            ]
        self._start()

    def _machine(self, guest: str, linux: Path | None, more: str) -> list[str]:
        if linux is not None:
            kernel = ["-kernel", str(linux / "vmlinuz"), "-initrd", str(linux / "initrd")]
            return ["-m", "256", *kernel, "-append", f"console=ttyS0 {more}"]
        if guest == "ipxe":  # on the serial port, by way of the firmware's text console
            return ["-m", "32", "-machine", "graphics=off", "-device", "e1000", "-boot", "n"]
        sector = self._directory / f"{guest}.img"
        code = bytes.fromhex(SECTORS[guest])
        sector.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa")
        sector.chmod(0o644)
        return ["-m", "16", "-drive", f"format=raw,file={sector},if=ide,snapshot=on"]

    def _start(self) -> None:
        self.process = self._user.popen(self._command, stdin=subprocess.DEVNULL)
        self._qmp = eventually(self._connect_qmp, what="QMP of the VM")
        self._answers = self._qmp.makefile("rb")
        self._answers.readline()  # the greeting
        self.qmp("qmp_capabilities")

    def _connect_qmp(self) -> socket.socket | None:
        assert self.process.poll() is None, "QEMU has ended"
        qmp = socket.socket(socket.AF_UNIX)
        try:
            qmp.connect(os.fspath(self._qmp_path))
        except OSError:
            qmp.close()
            return None
        return qmp

    def qmp(self, command: str, **arguments: Any) -> Any:
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._qmp.sendall(json.dumps(request).encode())
        for line in self._answers:
            answer = json.loads(line)
            if "event" not in answer:
                assert "return" in answer, answer
                return answer["return"]
        raise AssertionError("QMP closed")

    def connected(self) -> bool:
        """Does QEMU think that it has a client?"""
        rows = self.qmp("query-chardev")
        return not next(r["filename"] for r in rows if r["label"] == "c").startswith("disconnected")

    def kill(self) -> None:
        """End the VM as a crash does."""
        self._answers.close()
        self._qmp.close()
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again, on the same port."""
        self._qmp_path.unlink(missing_ok=True)
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
