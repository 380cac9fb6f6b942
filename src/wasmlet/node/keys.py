"""Keys, requests and certificates (X.509). The only module that imports `cryptography`; import it where it is needed.

Keys are EC P-256, as the kubelet's, so requests name no key encipherment. No object here shows a key in its `repr`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wasmlet.base.errors import UserError

__all__ = ["Certificate", "Subject", "certificate", "fits", "new_key", "pins", "request", "request_name", "self_signed"]

GROUP: Final = "system:nodes"
SELF_SIGNED_DAYS: Final = 365
CLOCK_SKEW: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a certificate is for.

    Attributes:
        node: The node's name; the common name is `system:node:{node}`.
        dns_names, ip_addresses: Subject alternative names; a client certificate must have none.
    """

    node: str
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()

    @property
    def common_name(self) -> str:
        """The user that the API server makes of it."""
        return f"system:node:{self.node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a certificate says. Moments are seconds since the epoch."""

    common_name: str
    organizations: tuple[str, ...]
    not_before: float
    not_after: float
    names: frozenset[str]
    is_self_signed: bool
    public_key: bytes = field(repr=False)


def new_key() -> bytes:
    """A new private key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def request(key_pem: bytes, subject: Subject) -> bytes:
    """A certificate signing request as PEM."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(subject))
    if names := _alternatives(subject):
        builder = builder.add_extension(names, critical=False)
    return builder.sign(_private(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def request_name(key_pem: bytes, subject: Subject, usages: Sequence[str]) -> str:
    """`node-csr-{hash}`: the same key, subject and usages give the same name, so that a second try finds the first."""
    digest = hashlib.sha256()
    parts = [subject.common_name, *subject.dns_names, *subject.ip_addresses, *usages]
    for part in [_public(_private(key_pem).public_key()), *(each.encode() for each in parts)]:
        digest.update(base64.urlsafe_b64encode(part) + b"|")  # the alphabet has no bar, so parts cannot run together
    return "node-csr-" + base64.b32encode(digest.digest()).decode().rstrip("=").lower()


def certificate(pem: bytes) -> Certificate:
    """The first certificate in `pem`, which may hold a key and a chain too.

    Raises:
        UserError: There is none.
    """
    try:
        found = x509.load_pem_x509_certificate(_only_certificates(pem))
    except ValueError:
        raise UserError("this is no PEM certificate") from None
    with _long_names():
        subject, issuer = found.subject, found.issuer
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Certificate(
        common_name=_first(subject, NameOID.COMMON_NAME),
        organizations=tuple(str(each.value) for each in groups),
        not_before=found.not_valid_before_utc.timestamp(),
        not_after=found.not_valid_after_utc.timestamp(),
        names=_names(found),
        is_self_signed=issuer == subject,
        public_key=found.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )


def fits(certificate_pem: bytes, key_pem: bytes) -> bool:
    """Whether the certificate is for that key."""
    with contextlib.suppress(UserError, ValueError, TypeError):
        return certificate(certificate_pem).public_key == _public(_private(key_pem).public_key())
    return False


def self_signed(key_pem: bytes, subject: Subject, *, now: float) -> bytes:
    """A serving certificate that nobody vouches for, as PEM."""
    begin = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(subject))
        .public_key(_private(key_pem).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - CLOCK_SKEW)
        .not_valid_after(begin + timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    if names := _alternatives(subject):
        builder = builder.add_extension(names, critical=False)
    return builder.sign(_private(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pins(authority_pem: bytes) -> list[str]:
    """`sha256:{hex}` of each certificate's public key, as kubeadm's --discovery-token-ca-cert-hash.

    Raises:
        UserError: There is no certificate.
    """
    try:
        found = x509.load_pem_x509_certificates(authority_pem)
    except ValueError:
        raise UserError("the authority is no PEM certificate") from None
    return ["sha256:" + hashlib.sha256(_public(each.public_key())).hexdigest() for each in found]


def _private(pem: bytes) -> CertificateIssuerPrivateKeyTypes:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError("the key is of a kind that wasmlet does not make")
    return key


def _public(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]  # every kind of public key has this
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _name(subject: Subject) -> x509.Name:
    with _long_names():
        common_name = x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name, _validate=False)
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, GROUP), common_name])


@contextlib.contextmanager
def _long_names() -> Iterator[None]:
    """X.520 allows a common name 64 characters; a node's name may have 253, and Go takes it: no warning about that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _alternatives(subject: Subject) -> x509.SubjectAlternativeName | None:
    names: list[x509.GeneralName] = [x509.DNSName(each) for each in subject.dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(each)) for each in subject.ip_addresses]
    return x509.SubjectAlternativeName(names) if names else None


def _names(found: x509.Certificate) -> frozenset[str]:
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    return frozenset(names.get_values_for_type(x509.DNSName)) | {
        str(each) for each in names.get_values_for_type(x509.IPAddress)
    }


def _first(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = name.get_attributes_for_oid(oid)
    return str(found[0].value) if found else ""


def _only_certificates(pem: bytes) -> bytes:
    start = pem.find(b"-----BEGIN CERTIFICATE-----")
    return pem[start:] if start >= 0 else b""
