"""Signatures without keys: by a sigstore of the test's own, and what it does not confirm; and without the extra.

The public instance's root (TUF) is not asked: no test needs the network.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from sigstore.errors import TUFError
from sigstore.verify import Verifier

from tests.support.cosign import Signer
from tests.support.sigstore import ISSUER, SUBJECT, Sigstore
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images import keyless, trust
from wasmlet.images.manifest import digest_of
from wasmlet.images.policy import Identity
from wasmlet.images.signatures import NoVoucherError

DIGEST = f"sha256:{'a' * 64}"
ME = Identity(ISSUER, SUBJECT)
MANIFEST = b'{"schemaVersion": 2}'
POLICY = 'version: 1\ndefault: {identities: [{issuer: "https://issuer.example", subject: me@example.com}]}\n'


def test_without_the_extra_a_policy_with_identities_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    trust.check_file(tmp_path / "policy.yaml")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="is not installed") as caught:
        trust.check_file(tmp_path / "policy.yaml")
    assert caught.value.reason == "SignatureValidationFailed"
    assert caught.value.hint is not None
    assert "pip install 'wasmlet[sigstore]'" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "cannot be read"),
        (Signer().bundle(DIGEST), "sigstore cannot read"),  # by a key: no certificate
        (
            json.dumps({**json.loads(Signer().bundle(DIGEST)), "verificationMaterial": 7}).encode(),
            "sigstore cannot read",
        ),
        (json.dumps({**json.loads(Signer().bundle(DIGEST)), "verificationMaterial": {}}).encode(), "cannot read"),
    ],
    ids=map(str, range(99)),  # contents have new keys in each process
)
def test_bundles_without_certificates_show_no_identity(content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(NoVoucherError, match=why):
        keyless.verify(content, [DIGEST], [ME], trusted_root=tmp_path / "root.json")


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


@pytest.fixture
def root(sigstore: Sigstore, tmp_path: Path) -> Path:
    path = tmp_path / "root.json"
    path.write_text(sigstore.trusted_root())
    return path


def test_a_statement_and_a_message(sigstore: Sigstore, root: Path) -> None:
    others = [Identity(ISSUER, "you@example.com"), Identity("https://other.example", SUBJECT)]
    digest = digest_of(MANIFEST)
    for content in (sigstore.sign_statement(digest), sigstore.sign_message(MANIFEST)):
        assert keyless.verify(content, [DIGEST, digest], [*others, ME], trusted_root=root) == (digest, ME)
        with pytest.raises(NoVoucherError, match="does not confirm"):
            keyless.verify(content, [digest], others, trusted_root=root)
        with pytest.raises(NoVoucherError, match=r"for another digest|does not confirm"):
            keyless.verify(content, [DIGEST], [ME], trusted_root=root)
        (root.parent / "other.json").write_text(Sigstore().trusted_root())
        with pytest.raises(NoVoucherError, match="does not confirm"):
            keyless.verify(content, [digest], [ME], trusted_root=root.parent / "other.json")
    with pytest.raises(NoVoucherError, match="of another kind"):
        keyless.verify(sigstore.sign_statement(DIGEST, predicate="x"), [DIGEST], [ME], trusted_root=root)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dsseEnvelope.payload", "e30="),
        ("dsseEnvelope.payloadType", "text/plain"),
        ("verificationMaterial.tlogEntries.0.integratedTime", "1"),
        ("verificationMaterial.tlogEntries.0.canonicalizedBody", "e30="),
        ("verificationMaterial.tlogEntries.0.inclusionProof.rootHash", "AAAA"),
        ("verificationMaterial.tlogEntries.0.inclusionProof.checkpoint.envelope", "x"),
        ("verificationMaterial.tlogEntries.0.inclusionPromise.signedEntryTimestamp", "AAAA"),
        ("verificationMaterial.tlogEntries", []),
        ("verificationMaterial.certificate.rawBytes", "AAAA"),
    ],
)
def test_a_bundle_with_one_thing_changed_shows_nothing(
    sigstore: Sigstore, root: Path, path: str, value: object
) -> None:
    document = json.loads(sigstore.sign_statement(DIGEST))
    *names, last = path.split(".")
    place = document
    for name in names:
        place = place[int(name)] if name.isdigit() else place[name]
    place[last] = value
    with pytest.raises(NoVoucherError):
        keyless.verify(json.dumps(document).encode(), [DIGEST], [ME], trusted_root=root)


def test_a_public_root_that_cannot_be_fetched(sigstore: Sigstore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Verifier:
        raise TUFError("Failed to refresh TUF metadata")

    monkeypatch.setattr(Verifier, "production", away)
    with pytest.raises(RetryableError, match="could not be fetched") as caught:
        keyless.verify(sigstore.sign_statement(DIGEST), [DIGEST], [ME], trusted_root=None)
    assert caught.value.reason == "SignatureValidationFailed"


def test_a_root_that_cannot_be_used(sigstore: Sigstore, tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    for name in ("root.json", "none.json"):
        with pytest.raises(UserError, match=f"cannot use the trusted root {tmp_path}/{name}") as caught:
            keyless.verify(sigstore.sign_statement(DIGEST), [DIGEST], [ME], trusted_root=tmp_path / name)
        assert caught.value.reason == "SignatureValidationFailed"
