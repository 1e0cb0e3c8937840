"""TLS in tests: a certificate of this machine's own, and a door with it in front of a server that has none."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.proxy import FaultProxy

_ADDRESS = "127.0.0.1"


class Certificate:
    """A certificate for 127.0.0.1 that signs itself, and its key, as PEM files."""

    def __init__(self, folder: Path) -> None:
        self.path, self.key_path = folder / "certificate.pem", folder / "key.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sllm-tasks test")])
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(_ADDRESS))])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


class TlsDoor(FaultProxy):
    """Listens with TLS on a TCP port and connects to a unix socket: the private server's build knows no TLS."""

    def __init__(self, path: Path, certificate: Certificate) -> None:
        super().__init__(path, path)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate.path, certificate.key_path)
        self.port = 0

    async def _start(self) -> None:
        self._is_open.set()
        self._server = await asyncio.start_server(self._serve, _ADDRESS, 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
