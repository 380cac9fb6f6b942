"""Policy files: which rule decides, and what is said of a file that is none."""

import contextlib
import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cosign import Signer
from wasmlet.base.errors import UserError
from wasmlet.images.policy import Demand, Identity, Vouchers
from wasmlet.images.policy_file import MAX_POLICY_BYTES, load, parse
from wasmlet.images.reference import parse as parse_reference

DIGEST = f"sha256:{'a' * 64}"
START = "version: 1\ndefault: never\n"


def test_the_most_specific_rule_decides(tmp_path: Path) -> None:
    first, second = Signer(), Signer()
    (tmp_path / "team.pub").write_text(first.pem)
    (tmp_path / "policy.yaml").write_text(
        f"""
version: 1
default: never
rules:
- images: registry.example/**
  allow: always
- images: [registry.example/team/**, "registry.example/b*"]
  allow:
    keys:
    - team.pub
    - |
{"".join(f"      {line}" + chr(10) for line in second.pem.splitlines())}
- images: registry.example/team/pinned
  allow: {{digests: ["{DIGEST}"]}}
- images: registry.example/team/named
  allow: {{identities: [{{issuer: https://issuer.example, subject: me@example.com}}]}}
"""
    )
    found = load(tmp_path / "policy.yaml")
    assert found.files == (tmp_path / "policy.yaml", tmp_path / "team.pub")
    assert found.wants_identities

    def demanded(name: str) -> Demand:
        return found.demand(parse_reference(name))

    assert demanded("other.example/x").allowance == "never"
    assert demanded("other.example/x").rule == "default"
    assert demanded("registry.example/x").allowance == "always"
    team = demanded("registry.example/team/x")
    assert team == demanded("registry.example/team/y:1")
    assert isinstance(team.allowance, Vouchers)
    assert [key.name for key in team.allowance.keys] == [str(tmp_path / "team.pub"), "the key in the policy"]
    assert len({key.fingerprint for key in team.allowance.keys}) == 2
    assert str(team) == f"rule registry.example/team/** of the image policy {tmp_path}/policy.yaml"
    assert demanded("registry.example/b").rule == "registry.example/b*"
    assert demanded("registry.example/team/pinned:3").allowance == Vouchers(digests=frozenset([DIGEST]))
    named = demanded("registry.example/team/named").allowance
    assert named == Vouchers(identities=(Identity("https://issuer.example", "me@example.com"),))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expected `object`"),
        ("[]", "Expected `object`"),
        ("version: 1", "missing required field `default`"),
        ("default: always", "missing required field `version`"),
        ("version: 2\ndefault: never", "'2'"),
        ("version: 1\ndefault: yes", "'yes'"),
        (START + "rule: []", "unknown field `rule`"),
        (START + "rules: [{images: a.b/c}]", "`allow` - at `$.rules[0]`"),
        (START + "rules: [{images: a.b/c, allow: {key: x}}]", "unknown field `key` - at `$.rules[0].allow`"),
        (START + "rules: [{images: a.b/c, allow: {}}]", "rules[0].allow lists nothing"),
        (START + "rules: [{images: [], allow: always}]", "rules[0].images is empty"),
        (START + "rules: [{images: hello, allow: always}]", "rules[0].images: pattern 'hello'"),
        (START + "rules: [{images: [a.b/c, a.b/c], allow: always}]", "comes twice"),
        (START + "rules: [{images: a.b/c, allow: {digests: [latest]}}]", "rules[0].allow.digests: 'latest'"),
        (START + "rules: [{images: a.b/c, allow: {keys: [none.pub]}}]", "none.pub cannot be read: No such file"),
        (START + "rules: [{images: a.b/c, allow: {keys: [private.key]}}]", "keys[0]: /"),
        (START + "rules: [{images: a.b/c, allow: {identities: [{issuer: x}]}}]", "missing required field `subject`"),
        (START + "default: always", "key 'default' comes twice"),
        (START + "rules: &a [*a]", "anchors and aliases are not taken: a"),
        (START + "rules: &a []", "anchors and aliases are not taken: a"),
        (START + "rules: [", "it is not YAML"),
        (START + "? [a]\n: b", "a key is a text"),
        ("[" * 40, "nested too deeply"),
        ("\0", "it is not YAML"),
        ("a: !!python/object:os.system x", "unknown field"),
    ],
)
def test_a_broken_policy_says_where(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "private.key").write_text("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nabc\n")
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(why)) as caught:
        load(path)
    assert caught.value.message.startswith(f"cannot use the image policy {path}: ")
    assert caught.value.reason == "SignatureValidationFailed"
    assert caught.value.hint == "docs/reference/image-policy.md has its format"


def test_a_policy_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path}/none: it cannot be read: No such file"):
        load(tmp_path / "none")
    (tmp_path / "large").write_bytes(b"#" * (MAX_POLICY_BYTES + 1))
    with pytest.raises(UserError, match="longer than"):
        load(tmp_path / "large")
    with pytest.raises(UserError, match=rf"{tmp_path}: it is no regular file"):
        load(tmp_path)


def test_a_fifo_does_not_hold_the_agent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="no regular file"):
        load(tmp_path / "fifo")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_policy_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse(content, Path("/policy.yaml"))


WORDS = st.sampled_from(["version", "default", "rules", "images", "allow", "keys", "digests", "always", "never", "1"])
DOCUMENTS = st.recursive(
    WORDS | st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(DOCUMENTS)
def test_any_document_is_a_policy_or_refused(document: object) -> None:
    with contextlib.suppress(ValueError, OSError):
        parse(yaml.safe_dump(document).encode(), Path("/nowhere/policy.yaml"))
