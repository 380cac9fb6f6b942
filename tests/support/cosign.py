"""Signs images as cosign does, in each of its layouts; what cosign itself wrote lies in tests/unit/images/cosign."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wasmlet.images.manifest import OCI_INDEX, OCI_MANIFEST, digest_of
from wasmlet.images.signatures import SIGN_PREDICATE, SIGNATURE_ANNOTATION, SIMPLE_SIGNING, authenticated

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "application/vnd.in-toto+json"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Written:
    """Blobs and a manifest to put into a repository; `tag` is where the manifest goes, "" for its digest alone."""

    manifest: bytes
    media_type: str = OCI_MANIFEST
    tag: str = ""
    blobs: list[bytes] = field(default_factory=list)

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


class Signer:
    """A key pair."""

    def __init__(self, private: PrivateKey | None = None) -> None:
        self.private = private or ec.generate_private_key(ec.SECP256R1())

    @property
    def pem(self) -> str:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            sizes = {"secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
            return self.private.sign(message, ec.ECDSA(sizes.get(self.private.curve.name, hashes.SHA256())))
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())

    def layer(self, payload: bytes) -> dict[str, Any]:
        signature = base64.b64encode(self.sign(payload)).decode()
        return layer(payload, signature)

    def tagged(self, digest: str, *others: tuple[bytes, dict[str, Any]], reference: str = "") -> Written:
        """The `.sig` tag's manifest, with `others` (payload and layer) before the own signature."""
        own = payload_of(digest, reference=reference)
        pairs = [*others, (own, self.layer(own))]
        return tagged(digest, *pairs)

    def bundle(self, digest: str, *, predicate: str = SIGN_PREDICATE) -> bytes:
        """A Sigstore bundle around a statement of `cosign sign`."""
        return _bundle({"dsseEnvelope": envelope(statement(digest, predicate), self.sign)})

    def message_bundle(self, manifest: bytes) -> bytes:
        """A Sigstore bundle with a signature over the manifest itself."""
        digest = base64.b64encode(sha256(manifest).digest()).decode()
        signature = base64.b64encode(self.sign(manifest)).decode()
        message = {"messageDigest": {"algorithm": "SHA2_256", "digest": digest}, "signature": signature}
        return _bundle({"messageSignature": message})


def statement(digest: str, predicate: str = SIGN_PREDICATE) -> bytes:
    """An in-toto statement about an image, as `cosign sign` writes it."""
    subject = {"digest": {"sha256": digest.removeprefix("sha256:")}}
    document = {
        "_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicateType": predicate, "predicate": {}
    }  # fmt: skip
    return json.dumps(document).encode()


def envelope(statement: bytes, sign: Callable[[bytes], bytes]) -> dict[str, Any]:
    """The statement with its signature (DSSE)."""
    signature = base64.b64encode(sign(authenticated(STATEMENT, statement))).decode()
    payload = base64.b64encode(statement).decode()
    return {"payload": payload, "payloadType": STATEMENT, "signatures": [{"sig": signature}]}


def _bundle(content: dict[str, Any]) -> bytes:
    material = {"publicKey": {"hint": "x"}}
    return json.dumps({"mediaType": BUNDLE, "verificationMaterial": material, **content}).encode()


def payload_of(digest: str, *, reference: str = "", kind: str = "cosign container image signature") -> bytes:
    """A simple signing payload."""
    identity, image = {"docker-reference": reference}, {"docker-manifest-digest": digest}
    return json.dumps({"critical": {"identity": identity, "image": image, "type": kind}, "optional": None}).encode()


def layer(payload: bytes, signature: str) -> dict[str, Any]:
    """The descriptor of a payload with its signature."""
    return {
        "mediaType": SIMPLE_SIGNING,
        "digest": digest_of(payload),
        "size": len(payload),
        "annotations": {SIGNATURE_ANNOTATION: signature},
    }


def tagged(digest: str, *pairs: tuple[bytes, dict[str, Any]]) -> Written:
    """The `.sig` tag's manifest with these payloads and layers."""
    config = b"{}"
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [described for _, described in pairs],
    }
    blobs = [config, *(payload for payload, _ in pairs)]
    return Written(json.dumps(document).encode(), tag=f"{digest.replace(':', '-')}.sig", blobs=blobs)


def referrer(subject: str, bundle: bytes, *, predicate: str | None = SIGN_PREDICATE) -> Written:
    """The manifest of a bundle that refers to the image; as cosign 3 writes it."""
    config = b"{}"
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [{"mediaType": BUNDLE, "digest": digest_of(bundle), "size": len(bundle)}],
        "subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 1},
        "annotations": {} if predicate is None else {"dev.sigstore.bundle.predicateType": predicate},
    }
    return Written(json.dumps(document).encode(), blobs=[config, bundle])


def referrers(subject: str, *written: Written) -> Written:
    """The index of an image's referrers, as the API answers and as the fallback tag holds it."""
    entries = []
    for each in written:
        document = json.loads(each.manifest)
        entries.append(
            {
                "mediaType": OCI_MANIFEST,
                "digest": each.digest,
                "size": len(each.manifest),
                "artifactType": document["artifactType"],
                "annotations": document["annotations"],
            }
        )
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return Written(json.dumps(index).encode(), OCI_INDEX, tag=subject.replace(":", "-"))


def push(address: str, repository: str, written: Written) -> None:
    """Blobs and a manifest into a registry on plain HTTP, as any other tool would."""
    for blob in written.blobs:
        place = _ask(address, "POST", f"/v2/{repository}/blobs/uploads/", b"", "")
        separator = "&" if "?" in place else "?"
        _ask(address, "PUT", f"{place}{separator}digest={digest_of(blob)}", blob, "application/octet-stream")
    name = written.tag or written.digest
    _ask(address, "PUT", f"/v2/{repository}/manifests/{name}", written.manifest, written.media_type)


def _ask(address: str, method: str, path: str, body: bytes, kind: str) -> str:
    connection = http.client.HTTPConnection(address)
    try:
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        assert answer.status in (201, 202), (answer.status, answer.read())
        return answer.headers.get("Location", "").removeprefix(f"http://{address}")
    finally:
        connection.close()
