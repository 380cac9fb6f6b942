"""Public keys: what they verify, and what is no key for images."""

import hashlib
import re

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.cosign import PrivateKey, Signer
from wasmlet.images.keys import load

KEYS: dict[str, PrivateKey] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_verifies(kind: str) -> None:
    signer = Signer(KEYS[kind])
    key = load(signer.pem.encode(), name="test.pub")
    signature = signer.sign(b"message")
    assert key.has_signed(b"message", signature)
    assert not key.has_signed(b"another", signature)
    assert not key.has_signed(b"message", b"")
    assert not key.has_signed(b"message", signature[:-1] + bytes([signature[-1] ^ 1]))
    assert key.may_have_signed(hashlib.sha256(b"message").digest(), signature)
    hashes_alone = kind in ("P-256", "RSA")
    assert key.may_have_signed(hashlib.sha256(b"another").digest(), signature) == (not hashes_alone)
    assert key.has_signed_digest(hashlib.sha256(b"message").digest(), signature) == hashes_alone
    others = [load(Signer(other).pem.encode(), name="x") for name, other in KEYS.items() if name != kind]
    assert not any(other.has_signed(b"message", signature) for other in others)


def test_older_cosign_hashed_for_every_curve_with_sha256() -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    key = load(Signer(private).pem.encode(), name="x")
    assert key.has_signed(b"message", private.sign(b"message", ec.ECDSA(hashes.SHA256())))


def test_the_same_key_under_two_names_is_one() -> None:
    pem = Signer().pem.encode()
    assert load(pem, name="a") == load(b"\n" + pem + b"\n", name="b")
    assert re.fullmatch("sha256:[0-9a-f]{64}", load(pem, name="a").fingerprint)


def _pem(
    private: rsa.RSAPrivateKey | dsa.DSAPrivateKey | ec.EllipticCurvePrivateKey,
) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (b"", "0 PEM texts"),
        (b"hello", "0 PEM texts"),
        (Signer().pem.encode() * 2, "2 PEM texts"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key"),
        (b"-----BEGIN CERTIFICATE-----\n", "a certificate"),
        (KEYS["P-256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "a private key"),
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "a private key"),
        (_pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (_pem(ec.generate_private_key(ec.SECP256K1())), "secp256k1"),
        (_pem(dsa.generate_private_key(2048)), "no ECDSA, RSA or Ed25519"),
        (b"-----BEGIN " + b"A" * 70000, "longer than"),
    ],
    ids=map(str, range(99)),  # contents have new keys in each process
)
def test_what_is_no_key_is_refused(pem: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        load(pem, name="team.pub")
    assert str(caught.value).startswith("team.pub ")
