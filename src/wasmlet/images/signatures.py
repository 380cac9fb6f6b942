"""What a signature of an image says, in cosign's two formats. Pure: bytes in, the digest that they are about out.

- A **simple signing payload** (cosign's SIGNATURE_SPEC.md): a JSON text that names the digest; its signature stands
  beside it. The repository that it names is ignored, as cosign does: an image may be copied with its signatures.
- A **Sigstore bundle** 0.3: a DSSE envelope around an in-toto statement of the predicate type that `cosign sign`
  writes, or a message signature over the manifest.

A text of which this module says that a key has signed it is one that the key's owner wrote.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from wasmlet.images.keys import Key

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ANNOTATION: Final = "dev.cosignproject.cosign/signature"
BUNDLE_TYPES: Final = "application/vnd.dev.sigstore.bundle"
"""What the media types of bundles begin with; `.v0.3+json` follows, or `+json;version=0.3` in older ones."""
SIGN_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
"""Of `cosign sign`. Other statements (an SBOM, a report of faults) are about an image without vouching for it."""
MAX_SUBJECTS: Final = 1024  # as sigstore-go
MAX_SIGNATURE_BYTES: Final = 2048  # an RSA key of 16 Kibit makes so long ones
_COSIGN: Final = "cosign container image signature"
_IN_TOTO: Final = "application/vnd.in-toto+json"
_STATEMENTS: Final = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_VERSION: Final = re.compile(r"application/vnd\.dev\.sigstore\.bundle(?:\.v|\+json;version=)(\d+)\.(\d+)(?:\+json)?")
_BASE64: Final = str.maketrans("-_", "+/")


class NoVoucherError(ValueError):
    """A signature that does not count; the message says why, in words that fit behind "1 signature"."""


class _Image(msgspec.Struct):
    digest: str = msgspec.field(name="docker-manifest-digest")


class _Critical(msgspec.Struct):
    image: _Image
    type: str


class _SimpleSigning(msgspec.Struct):
    critical: _Critical


class _EnvelopeSignature(msgspec.Struct):
    sig: str


class _Envelope(msgspec.Struct, rename="camel"):
    payload: str
    payload_type: str
    signatures: list[_EnvelopeSignature]


class _MessageDigest(msgspec.Struct):
    algorithm: str
    digest: str


class _MessageSignature(msgspec.Struct, rename="camel"):
    signature: str
    message_digest: _MessageDigest


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: str
    dsse_envelope: _Envelope | None = None
    message_signature: _MessageSignature | None = None


class _Subject(msgspec.Struct):
    digest: dict[str, str] = {}


class _Statement(msgspec.Struct, rename="camel"):
    type: str = msgspec.field(name="_type")
    predicate_type: str
    subject: list[_Subject]


def read_signature(text: str) -> bytes:
    """The bytes of a signature in base64.

    Raises:
        NoVoucherError: It is none.
    """
    if len(text) > 2 * MAX_SIGNATURE_BYTES:
        raise NoVoucherError("that is too long")
    return _decode(text)


def check_payload(payload: bytes, digests: Iterable[str]) -> str:
    """The one of `digests` that a simple signing payload is about. The signature is checked elsewhere.

    Raises:
        NoVoucherError: It is about another image, or nothing that cosign writes.
    """
    critical = _read(payload, _SimpleSigning).critical
    if critical.type != _COSIGN:
        raise NoVoucherError("of another kind")
    return _named([critical.image.digest], digests)


def verify_bundle(content: bytes, digests: Iterable[str], keys: Sequence[Key]) -> tuple[str, Key]:
    """Which of `digests` a bundle vouches for, and by which of `keys`.

    Raises:
        NoVoucherError: For none of them, or by none of these.
    """
    bundle = _read_bundle(content)
    if bundle.dsse_envelope is not None:
        envelope = bundle.dsse_envelope
        if len(envelope.signatures) != 1:
            raise NoVoucherError("without exactly one signature in its envelope")
        signature = read_signature(envelope.signatures[0].sig)
        payload = _decode(envelope.payload)
        message = authenticated(envelope.payload_type, payload)
        key = next((each for each in keys if each.has_signed(message, signature)), None)
        if key is None:
            raise NoVoucherError("by another key")
        return check_statement(payload, envelope.payload_type, digests), key
    assert bundle.message_signature is not None
    signature = read_signature(bundle.message_signature.signature)
    if bundle.message_signature.message_digest.algorithm != "SHA2_256":
        raise NoVoucherError("over another digest than sha256")
    named = f"sha256:{_decode(bundle.message_signature.message_digest.digest).hex()}"
    digest = _named([named], digests)
    key = next((each for each in keys if each.has_signed_digest(bytes.fromhex(digest[7:]), signature)), None)
    if key is None:
        raise NoVoucherError("by another key")
    return digest, key


def check_statement(payload: bytes, payload_type: str, digests: Iterable[str]) -> str:
    """The one of `digests` that an in-toto statement of `cosign sign` is about.

    Raises:
        NoVoucherError: It is about other images, or another kind of statement.
    """
    if payload_type != _IN_TOTO:
        raise NoVoucherError("of another kind")
    statement = _read(payload, _Statement)
    if statement.type not in _STATEMENTS or statement.predicate_type != SIGN_PREDICATE:
        raise NoVoucherError("of another kind")
    named = (subject.digest.get("sha256", "") for subject in statement.subject[:MAX_SUBJECTS])
    return _named([f"sha256:{digest}" for digest in named], digests)


def authenticated(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature is over (DSSE's protocol.md: PAE)."""
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def is_envelope(content: bytes) -> bool:
    """Whether a bundle holds a DSSE envelope; else it holds a message signature.

    Raises:
        NoVoucherError: It is no bundle.
    """
    return _read_bundle(content).dsse_envelope is not None


def _read_bundle(content: bytes) -> _Bundle:
    bundle: _Bundle = _read(content, _Bundle)
    version = _VERSION.fullmatch(bundle.media_type)
    if version is None or (int(version[1]), int(version[2])) < (0, 3):
        raise NoVoucherError("in no Sigstore bundle of version 0.3")
    if (bundle.dsse_envelope is None) == (bundle.message_signature is None):
        raise NoVoucherError("in a bundle without one content")
    return bundle


def _named(found: Iterable[str], digests: Iterable[str]) -> str:
    wanted = list(digests)
    for digest in found:
        if digest in wanted:
            return digest
    raise NoVoucherError("for another digest")


def _read(content: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NoVoucherError("that cannot be read") from error


def _decode(text: str) -> bytes:
    """Base64 in either alphabet, as protobuf's JSON has it."""
    try:
        return base64.b64decode(text.translate(_BASE64), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoVoucherError("that is not base64") from error
