"""Who signs certificates of callers and of nodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.cluster import Cluster


class Authority:
    """Signs certificates of callers and of nodes."""

    def __init__(self, name: str, *, cluster: Cluster | None = None) -> None:
        if cluster is not None:
            self.key: Any = serialization.load_pem_private_key(cluster.ca_key_file.read_bytes(), None)
            self.name = x509.load_pem_x509_certificate(cluster.ca_file.read_bytes()).subject
            return
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _subject(name)

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        return self._signed(self.name, self.key.public_key(), constraints)

    def pair(self, stem: Path, name: str, group: str = "") -> tuple[Path, Path]:
        """Files of a client's certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        paths = stem.with_suffix(".crt"), stem.with_suffix(".key")
        for path, content in zip(paths, (
            self._signed(_subject(name, group), key.public_key(), x509.ExtendedKeyUsage([_CLIENT])),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        ), strict=True):  # fmt: skip
            beside = path.with_name(f"{path.name}.new")
            beside.write_bytes(content)
            beside.rename(path)
        return paths

    def _signed(self, subject: x509.Name, key: Any, extension: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            self.name, subject, key, x509.random_serial_number(),
            now - timedelta(minutes=1), now + timedelta(hours=1),
        )  # fmt: skip
        built = builder.add_extension(extension, critical=False).sign(self.key, hashes.SHA256())
        return built.public_bytes(serialization.Encoding.PEM)


_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def _subject(name: str, group: str = "") -> x509.Name:
    names = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*names, x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
