"""Public keys that sign images: those that cosign makes (ECDSA P-256) and imports (P-384, P-521, RSA, Ed25519)."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from wasmlet.images import ed25519ph

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey

MAX_PEM_BYTES: Final = 64 << 10
MIN_RSA_BITS: Final = 2048  # what sigstore's libraries take at least
_BEGIN: Final = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class Key:
    """A public key. Equal fingerprints are equal keys.

    Attributes:
        fingerprint: `sha256:` and the digest of its DER SubjectPublicKeyInfo.
        name: What messages call it: the file's name, or that it stands in the policy.
    """

    fingerprint: str
    name: str = field(compare=False)
    _public: PublicKey = field(compare=False, repr=False)

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over `message`."""
        return _verify(self._public, signature, message, digest=None)

    def may_have_signed(self, digest: bytes, signature: bytes) -> bool:
        """False: the signature is not this key's over a message of that SHA-256; True for keys that hash otherwise."""
        return not _signs_sha256(self._public) or _verify(self._public, signature, b"", digest=digest)

    def has_signed_digest(self, digest: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over a message that has this SHA-256, as far as that can be told."""
        return _signs_sha256(self._public) and _verify(self._public, signature, b"", digest=digest)


def load(pem: bytes, *, name: str) -> Key:
    """The key in a PEM text.

    Raises:
        ValueError: It holds no public key, or one that signs no images; the message says what it holds.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    if len(pem) > MAX_PEM_BYTES:
        raise ValueError(f"{name} is longer than {MAX_PEM_BYTES} bytes")
    if b"PRIVATE KEY-----" in pem:
        raise ValueError(
            f"{name} holds a private key, which a verifier must not have; give its public one (cosign.pub)"
        )
    if b"-----BEGIN CERTIFICATE-----" in pem:
        raise ValueError(f"{name} holds a certificate, not a public key")
    if pem.count(_BEGIN) != 1:
        raise ValueError(f"{name} holds {pem.count(_BEGIN)} PEM texts instead of one public key")
    try:
        public = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{name} holds no public key in PEM") from error
    if isinstance(public, ec.EllipticCurvePublicKey):
        if not isinstance(public.curve, (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)):
            raise ValueError(f"{name} is a key of the curve {public.curve.name}; cosign's are P-256, P-384 and P-521")
    elif isinstance(public, rsa.RSAPublicKey):
        if public.key_size < MIN_RSA_BITS:
            raise ValueError(f"{name} is an RSA key of {public.key_size} bits; {MIN_RSA_BITS} is the least")
    elif not isinstance(public, ed25519.Ed25519PublicKey):
        raise ValueError(f"{name} is no ECDSA, RSA or Ed25519 key")
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Key(f"sha256:{sha256(der).hexdigest()}", name, public)


def _signs_sha256(public: PublicKey) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415

    is_p256 = isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)
    return is_p256 or isinstance(public, rsa.RSAPublicKey)


def _verify(
    public: PublicKey,
    signature: bytes,
    message: bytes,
    *,
    digest: bytes | None,
) -> bool:
    """Whether it verifies.

    Args:
        digest: The message's SHA-256 instead of the message; for keys that sign SHA-256 only.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed  # noqa: PLC0415

    try:
        if isinstance(public, rsa.RSAPublicKey):
            algorithm = hashes.SHA256() if digest is None else Prehashed(hashes.SHA256())
            public.verify(signature, message if digest is None else digest, padding.PKCS1v15(), algorithm)
            return True
        if isinstance(public, ed25519.Ed25519PublicKey):
            return _verify_ed25519(public, signature, message)
        if digest is not None:
            public.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
            return True
        return _verify_ecdsa(public, signature, message)
    except (InvalidSignature, ValueError):
        return False


def _verify_ed25519(public: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Over the message, or over its SHA-512 (Ed25519ph), as cosign signs everything."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        public.verify(signature, message)
    except (InvalidSignature, ValueError):
        return ed25519ph.verify(public.public_bytes_raw(), signature, message)
    return True


def _verify_ecdsa(public: EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """With the hash of the curve's size; cosign before 3 took SHA-256 for every curve."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    own: dict[str, hashes.HashAlgorithm] = {"secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
    algorithms = [own[public.curve.name]] if public.curve.name in own else []
    for algorithm in [*algorithms, hashes.SHA256()]:
        try:
            public.verify(signature, message, ec.ECDSA(algorithm))
        except (InvalidSignature, ValueError):
            continue
        return True
    return False
