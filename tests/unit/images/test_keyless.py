"""Signatures without keys: what happens without the extra, and with bundles that sigstore does not confirm."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.support.cosign import Signer
from wasmlet.base.errors import UserError
from wasmlet.images import keyless, trust
from wasmlet.images.policy import Identity
from wasmlet.images.signatures import NoVoucherError

DIGEST = f"sha256:{'a' * 64}"
ME = Identity("https://issuer.example", "me@example.com")
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
