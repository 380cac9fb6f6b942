"""Ed25519ph: what Go's crypto/ed25519 signed (its options with Hash: crypto.SHA512), and what is no signature."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.images import ed25519ph
from wasmlet.images.keys import load

PAYLOAD = b'{"critical":{"type":"cosign container image signature"}}'
SIGNED = [
    # RFC 8032, section 7.3.
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        b"abc",
        (
            "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41"
            "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"
        ),
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        b"",
        (
            "5b88ce227bf28bdef4c66ae9608c8bc15e81148386849110d2ad76abab768949"
            "342afe5a477ac0c41fd211a6dfc36dd5e57b6d26c1fb7a92187ed72e6997d304"
        ),
    ),
    (
        "0000000000000000000000000000000000000000000000000000000000000001",
        PAYLOAD,
        (
            "03a638c7a778cf16fa5d0ca0489e86aad1229aa6dec45ea8136c7ff267874726"
            "012d40051434a040bd74a6c28c520360259528f944a0cf28a76df4a9ae2ed302"
        ),
    ),
    (
        "ff" * 32,
        PAYLOAD,
        (
            "e9611aaf906b48872c16a082541ecc51736cd4c1b219e9c0fb2d18e3a74b0420"
            "683d7ebbbbd562936ae1ed3d148fd398bd4bec03ac1d83628222473d14689a02"
        ),
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493


def public(seed: str) -> ed25519.Ed25519PublicKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)).public_key()


@pytest.mark.parametrize(("seed", "message", "signature"), SIGNED)
def test_what_go_signed_verifies(seed: str, message: bytes, signature: str) -> None:
    key, signed = public(seed), bytes.fromhex(signature)
    assert ed25519ph.verify(key.public_bytes_raw(), signed, message)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert load(pem, name="x").has_signed(message, signed)
    assert not load(pem, name="x").has_signed(message + b"x", signed)
    # The same point and number, written otherwise.
    larger = int.from_bytes(signed[32:], "little") + ORDER
    assert not ed25519ph.verify(key.public_bytes_raw(), signed[:32] + larger.to_bytes(32, "little"), message)


def test_a_plain_signature_is_none() -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    raw = private.public_key().public_bytes_raw()
    assert not ed25519ph.verify(raw, private.sign(PAYLOAD), PAYLOAD)


@given(st.integers(0, 511), st.sampled_from(SIGNED))
def test_no_bit_may_be_another(bit: int, signed: tuple[str, bytes, str]) -> None:
    seed, message, signature = signed
    changed = bytearray.fromhex(signature)
    changed[bit // 8] ^= 1 << bit % 8
    assert not ed25519ph.verify(public(seed).public_bytes_raw(), bytes(changed), message)


@given(st.binary(max_size=40), st.binary(max_size=70), st.binary(max_size=9))
def test_any_bytes_are_an_answer(key: bytes, signature: bytes, message: bytes) -> None:
    assert not ed25519ph.verify(key, signature, message)
    assert not ed25519ph.verify(key.ljust(32)[:32], signature.ljust(64)[:63] + b"\0", message)
