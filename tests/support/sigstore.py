"""A sigstore of the test's own: an authority, a certificate log and a transparency log, whose keys one file trusts.

It issues a certificate to an identity, signs with it, and enters that in its log, of which each bundle is the only
entry.
"""

from __future__ import annotations

import base64
import functools
import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.cosign import BUNDLE, envelope, statement
from wasmlet.images.signatures import SIGN_PREDICATE

ISSUER = "https://issuer.example"
SUBJECT = "me@example.com"
_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_SCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_NOW = datetime.now(UTC).replace(microsecond=0)
_START = _NOW - timedelta(days=1)


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return sha256(_der(key)).digest()


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


@dataclass(frozen=True)
class _Signing:
    """A certificate and its key, for one signature."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


class Sigstore:
    """Keys of the three services; every `sign_…` gives a bundle."""

    def __init__(self) -> None:
        self._authority, self._certificate_log, self._log = _key(), _key(), _key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sigstore of a test")])
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._authority.public_key())
        self._root = (
            x509.CertificateBuilder(name, name, self._authority.public_key(), 1, _START, _NOW + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(self._authority, hashes.SHA256())
        )

    def trusted_root(self) -> str:
        """What a policy's `trustedRoot` file holds."""
        valid = {"start": _START.isoformat().replace("+00:00", "Z")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            details = "PKIX_ECDSA_P256_SHA_256"
            public = {"rawBytes": _text(_der(key)), "keyDetails": details, "validFor": valid}
            return {
                "baseUrl": "https://log.example",
                "hashAlgorithm": "SHA2_256",
                "publicKey": public,
                "logId": {"keyId": _text(_id(key))},
            }

        authority = {
            "subject": {"organization": "test", "commonName": "test"},
            "uri": "https://authority.example",
            "certChain": {"certificates": [{"rawBytes": _text(self._root.public_bytes(Encoding.DER))}]},
            "validFor": valid,
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self._log)],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self._certificate_log)],
                "timestampAuthorities": [],
            }
        )

    def sign_statement(self, digest: str, *, subject: str = SUBJECT, predicate: str = SIGN_PREDICATE) -> bytes:
        """What `cosign sign` makes without a key."""
        signing = self._issue(subject)
        payload = statement(digest, predicate)
        signed = envelope(payload, functools.partial(_sign, signing.key))
        entry = {
            "envelopeHash": {"algorithm": "sha256", "value": sha256(json.dumps(signed).encode()).hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": sha256(payload).hexdigest()},
            "signatures": [{"signature": signed["signatures"][0]["sig"], "verifier": _pem(signing)}],
        }
        return self._bundle({"dsseEnvelope": signed}, signing, "dsse", entry)

    def sign_message(self, message: bytes, *, subject: str = SUBJECT) -> bytes:
        """A signature over the message itself."""
        signing = self._issue(subject)
        digest, signature = sha256(message), _text(_sign(signing.key, message))
        content = {"messageDigest": {"algorithm": "SHA2_256", "digest": _text(digest.digest())}, "signature": signature}
        entry = {
            "data": {"hash": {"algorithm": "sha256", "value": digest.hexdigest()}},
            "signature": {"content": signature, "publicKey": {"content": _pem(signing)}},
        }
        return self._bundle({"messageSignature": content}, signing, "hashedrekord", entry)

    def _issue(self, subject: str) -> _Signing:
        """A certificate for an identity, which the certificate log has seen (RFC 6962)."""
        key, serial = _key(), x509.random_serial_number()
        precertificate = self._certificate(key, subject, serial, b"\x04\x02\x00\x00").tbs_precertificate_bytes
        moment = int(_NOW.timestamp() * 1000)
        length = len(precertificate).to_bytes(3, "big")
        signed = struct.pack("!BBQH", 0, 0, moment, 1) + _id(self._authority) + length + precertificate + b"\0\0"
        signature = _sign(self._certificate_log, signed)
        sct = b"\0" + _id(self._certificate_log) + struct.pack("!QHBBH", moment, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        return _Signing(key, self._certificate(key, subject, serial, b"\x04" + bytes([len(listed)]) + listed))

    def _certificate(
        self, key: ec.EllipticCurvePrivateKey, subject: str, serial: int, timestamps: bytes
    ) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._authority.public_key())
        start, end = _NOW - timedelta(minutes=5), _NOW + timedelta(minutes=5)
        return (
            x509.CertificateBuilder(self._root.subject, x509.Name([]), key.public_key(), serial, start, end)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(subject)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, ISSUER.encode()), critical=False)
            .add_extension(x509.UnrecognizedExtension(_SCT_OID, timestamps), critical=False)
            .sign(self._authority, hashes.SHA256())
        )

    def _bundle(self, content: dict[str, Any], signing: _Signing, kind: str, entry: dict[str, Any]) -> bytes:
        body = _canonical({"apiVersion": "0.0.1", "kind": kind, "spec": entry})
        moment, log = int(_NOW.timestamp()), _id(self._log)
        root = sha256(b"\0" + body).digest()
        note = f"log.example - 1\n1\n{_text(root)}\n"
        checkpoint = f"{note}\n— log.example {_text(log[:4] + _sign(self._log, note.encode()))}\n"
        promise = {"body": _text(body), "integratedTime": moment, "logID": log.hex(), "logIndex": 0}
        entered = {
            "logIndex": "0",
            "logId": {"keyId": _text(log)},
            "kindVersion": {"kind": kind, "version": "0.0.1"},
            "integratedTime": str(moment),
            "inclusionPromise": {"signedEntryTimestamp": _text(_sign(self._log, _canonical(promise)))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _text(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": _text(body),
        }
        certificate = {"rawBytes": _text(signing.certificate.public_bytes(Encoding.DER))}
        material = {"certificate": certificate, "tlogEntries": [entered]}
        return json.dumps({"mediaType": BUNDLE, "verificationMaterial": material, **content}).encode()


def _pem(signing: _Signing) -> str:
    return _text(signing.certificate.public_bytes(Encoding.PEM))


def _canonical(document: dict[str, Any]) -> bytes:
    """RFC 8785, for texts and small numbers."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
