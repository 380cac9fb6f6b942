"""What signatures say: both formats, and everything that is none."""

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cosign import Signer, payload_of
from wasmlet.images.keys import Key, load
from wasmlet.images.manifest import digest_of
from wasmlet.images.signatures import (
    MAX_SUBJECTS,
    SIGN_PREDICATE,
    NoVoucherError,
    authenticated,
    check_payload,
    check_statement,
    is_envelope,
    read_signature,
    verify_bundle,
)

DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
SIGNER = Signer()
IN_TOTO = "application/vnd.in-toto+json"


def key_of(signer: Signer) -> Key:
    return load(signer.pem.encode(), name="test.pub")


KEY = key_of(SIGNER)


def test_a_payload_names_its_digest_whatever_the_repository() -> None:
    assert check_payload(payload_of(DIGEST, reference="other.example/x"), [OTHER, DIGEST]) == DIGEST


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (payload_of(OTHER), "for another digest"),
        (payload_of(DIGEST, kind="atomic container signature"), "of another kind"),
        (b"", "cannot be read"),
        (b"{}", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"\xff", "cannot be read"),
        (json.dumps({"critical": {"type": "x", "image": {"docker-manifest-digest": 1}}}).encode(), "cannot be read"),
    ],
    ids=map(str, range(99)),  # contents have new keys in each process
)
def test_payloads_that_vouch_for_nothing(payload: bytes, why: str) -> None:
    with pytest.raises(NoVoucherError, match=why):
        check_payload(payload, [DIGEST])


def test_the_bundle_of_a_key() -> None:
    others = [key_of(Signer()) for _ in range(3)]
    assert verify_bundle(SIGNER.bundle(DIGEST), [OTHER, DIGEST], [*others, KEY]) == (DIGEST, KEY)
    with pytest.raises(NoVoucherError, match="by another key"):
        verify_bundle(SIGNER.bundle(DIGEST), [DIGEST], others)
    with pytest.raises(NoVoucherError, match="by another key"):
        verify_bundle(SIGNER.bundle(DIGEST), [DIGEST], [])
    with pytest.raises(NoVoucherError, match="for another digest"):
        verify_bundle(SIGNER.bundle(OTHER), [DIGEST], [KEY])
    with pytest.raises(NoVoucherError, match="of another kind"):  # a report of faults vouches for nothing
        verify_bundle(
            SIGNER.bundle(DIGEST, predicate="https://cosign.sigstore.dev/attestation/vuln/v1"), [DIGEST], [KEY]
        )


def test_the_bundle_of_a_message() -> None:
    manifest = b'{"schemaVersion": 2}'
    content = SIGNER.message_bundle(manifest)
    assert not is_envelope(content)
    assert verify_bundle(content, [digest_of(manifest)], [KEY]) == (digest_of(manifest), KEY)
    with pytest.raises(NoVoucherError, match="for another digest"):
        verify_bundle(content, [DIGEST], [KEY])
    lie = json.loads(content)
    lie["messageSignature"]["messageDigest"]["digest"] = base64.b64encode(bytes.fromhex(DIGEST[7:])).decode()
    with pytest.raises(NoVoucherError, match="by another key"):
        verify_bundle(json.dumps(lie).encode(), [DIGEST], [KEY])


def changed(path: str, value: Any) -> bytes:
    """A good bundle with one thing changed."""
    document = json.loads(SIGNER.bundle(DIGEST))
    *names, last = path.split(".")
    place = document
    for name in names:
        place = place[name]
    if value is None:
        place.pop(last, None)
    else:
        place[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot be read"),
        (b"null", "cannot be read"),
        (b"{" * 100_000, "cannot be read"),
        (changed("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.2"), "version 0.3"),
        (changed("mediaType", "application/json"), "version 0.3"),
        (changed("dsseEnvelope", None), "without one content"),
        (
            changed("messageSignature", {"signature": "", "messageDigest": {"algorithm": "", "digest": ""}}),
            "one content",
        ),
        (changed("dsseEnvelope.signatures", []), "exactly one"),
        (changed("dsseEnvelope.signatures", [{"sig": ""}] * 2), "exactly one"),
        (changed("dsseEnvelope.signatures", [{"sig": "?"}]), "not base64"),
        (changed("dsseEnvelope.signatures", [{"sig": "A" * 10_000}]), "too long"),
        (changed("dsseEnvelope.payload", "e30="), "by another key"),
        (changed("dsseEnvelope.payload", "ä"), "not base64"),
        (changed("dsseEnvelope.payloadType", "text/plain"), "by another key"),
    ],
    ids=map(str, range(99)),  # contents have new keys in each process
)
def test_bundles_that_vouch_for_nothing(content: bytes, why: str) -> None:
    with pytest.raises(NoVoucherError, match=why):
        verify_bundle(content, [DIGEST], [KEY])


def test_older_names_of_the_same_version_are_taken() -> None:
    content = changed("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.3")
    assert verify_bundle(content, [DIGEST], [KEY]) == (DIGEST, KEY)
    document = json.loads(SIGNER.bundle(DIGEST))
    envelope = document["dsseEnvelope"]
    envelope["payload"] = envelope["payload"].replace("+", "-").replace("/", "_")
    assert verify_bundle(json.dumps(document).encode(), [DIGEST], [KEY]) == (DIGEST, KEY)


def statement(*digests: str, kind: str = "https://in-toto.io/Statement/v1") -> bytes:
    subject = [{"digest": {"sha512": "x", "sha256": each.removeprefix("sha256:")}} for each in digests]
    return json.dumps({"_type": kind, "predicateType": SIGN_PREDICATE, "subject": subject}).encode()


def test_statements_about_several_images() -> None:
    assert check_statement(statement(OTHER, DIGEST), IN_TOTO, [DIGEST]) == DIGEST
    many = statement(*[OTHER] * MAX_SUBJECTS, DIGEST)
    for content, kind in ((many, IN_TOTO), (statement(), IN_TOTO)):
        with pytest.raises(NoVoucherError, match="for another digest"):
            check_statement(content, kind, [DIGEST])
    for content, kind in ((statement(DIGEST, kind="x"), IN_TOTO), (statement(DIGEST), "text/plain")):
        with pytest.raises(NoVoucherError, match="of another kind"):
            check_statement(content, kind, [DIGEST])


def test_what_dsse_signs() -> None:
    assert authenticated("http://example.com/HelloWorld", b"hello world") == (  # the example of DSSE's protocol.md
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_any_bytes_vouch_for_nothing(content: bytes) -> None:
    for check in (
        lambda: verify_bundle(content, [DIGEST], [KEY]),
        lambda: check_payload(content, [DIGEST]),
        lambda: check_statement(content, IN_TOTO, [DIGEST]),
    ):
        with pytest.raises(NoVoucherError):
            check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(["mediaType", "dsseEnvelope", "dsseEnvelope.payload", "dsseEnvelope.payloadType",
                     "dsseEnvelope.signatures", "messageSignature"]),
    JSON,
)  # fmt: skip
def test_a_changed_bundle_vouches_for_nothing_else(path: str, value: object) -> None:
    try:
        found = verify_bundle(changed(path, value), [DIGEST], [KEY])
    except NoVoucherError:
        return
    assert found == (DIGEST, KEY)


@given(st.text(max_size=40))
def test_any_text_is_a_signature_or_refused(text: str) -> None:
    with contextlib.suppress(NoVoucherError):
        assert isinstance(read_signature(text), bytes)
