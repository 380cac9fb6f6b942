"""A certificate authority that answers CertificateSigningRequests as the controller manager does."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the cluster")])


class Authority:
    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())

    def sign(self, request_pem: bytes, *, begin: datetime | None = None, life: timedelta = timedelta(days=1)) -> bytes:
        """The certificate that was asked for."""
        request = x509.load_pem_x509_csr(request_pem)
        begin = begin or datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(request.subject)
            .issuer_name(NAME)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + life)
        )
        for each in request.extensions:
            builder = builder.add_extension(each.value, critical=each.critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def answered(self, document: dict[str, Any]) -> dict[str, Any]:
        """The request's document, approved and issued."""
        certificate = self.sign(base64.b64decode(document["spec"]["request"]))
        status = {
            "conditions": [{"type": "Approved", "status": "True", "reason": "AutoApproved"}],
            "certificate": base64.b64encode(certificate).decode(),
        }
        return document | {"status": status}
