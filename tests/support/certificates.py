"""Certificates that a test makes for itself, laid out as QEMU wants them."""

from datetime import UTC, datetime
from pathlib import Path

import trustme

from tests.support.user import User

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
AGO = datetime(2021, 1, 1, tzinfo=UTC)


class Authority:
    """One that signs, with a directory for QEMU's ``tls-creds-x509`` and files for clients."""

    def __init__(self, user: User, directory: Path, *names: str, expired: bool = False) -> None:
        """The server's certificate is for ``names``."""
        self._user = user
        self._authority = trustme.CA()
        self.directory = directory
        directory.mkdir()
        self.ca = self.write("ca.pem", self._authority.cert_pem.bytes())
        self.write("ca-cert.pem", self._authority.cert_pem.bytes())
        names = names or ("127.0.0.1",)
        if expired:
            self.server = self._authority.issue_cert(*names, not_before=LONG_AGO, not_after=AGO)
        else:
            self.server = self._authority.issue_cert(*names)
        self.write("server-cert.pem", self.server.cert_chain_pems[0].bytes())
        self.write("server-key.pem", self.server.private_key_pem.bytes())

    def client(self, name: str) -> tuple[Path, Path]:
        """A client's certificate and key."""
        issued = self._authority.issue_cert(f"{name}@example.org", common_name=name)
        return (
            self.write(f"{name}-cert.pem", issued.cert_chain_pems[0].bytes()),
            self.write(f"{name}-key.pem", issued.private_key_pem.bytes()),
        )

    def write(self, name: str, data: bytes, mode: int = 0o600) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        self._user.own(path)
        path.chmod(mode)
        return path
