"""Manifests come from strangers: what is not right is refused, in words that are safe to show."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.base.errors import UserError
from wasmlet.images.manifest import (
    DOCKER_INDEX,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    media_type_of,
    parse,
    shown,
    shown_list,
)

BLOB: dict[str, Any] = {"mediaType": "application/wasm", "digest": "sha256:" + "a" * 64, "size": 3}
DOCUMENT: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": BLOB, "layers": [BLOB]}


def test_an_image_and_an_index_are_read() -> None:
    manifest = parse(json.dumps(DOCUMENT).encode(), "")
    assert isinstance(manifest, Manifest)
    assert manifest.layers[0].size == 3
    index = {"schemaVersion": 2, "manifests": [BLOB | {"platform": {"os": "wasi", "architecture": "wasm"}}]}
    parsed = parse(json.dumps(index).encode(), DOCKER_INDEX)
    assert isinstance(parsed, Index)
    assert str(parsed.manifests[0].platform) == "wasi/wasm"


@pytest.mark.parametrize(
    ("document", "declared", "media_type"),
    [
        (DOCUMENT, "text/plain", OCI_MANIFEST),
        ({"schemaVersion": 2, "layers": []}, f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST),
        ({"schemaVersion": 2, "layers": []}, "application/json", OCI_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, "", OCI_INDEX),
        ({"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws", None),
        ({}, "", "unknown"),
    ],
)
def test_the_document_s_own_type_wins_over_the_declared(
    document: dict[str, Any], declared: str, media_type: str | None
) -> None:
    assert media_type_of(json.dumps(document).encode(), declared) == (media_type or declared)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"config": BLOB | {"digest": "sha256:../../etc/passwd"}}, "64 lower-case hex"),
        ({"layers": [BLOB | {"digest": "sha512:" + "a" * 128}]}, "64 lower-case hex"),
        ({"layers": [BLOB | {"size": -1}]}, "negative"),
        ({"layers": [BLOB | {"size": "3"}]}, "broken"),
        ({"layers": None}, "broken"),
        ({"manifests": []}, "at once"),
        ({"mediaType": "application/vnd.example\n\x1b[31m"}, r"vnd\.example\?\?\[31m"),
    ],
)
def test_a_wrong_manifest_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        parse(json.dumps(DOCUMENT | change).encode(), "")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"not (a )?JSON"):
        parse(content, OCI_MANIFEST)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["config", "layers", "manifests", "mediaType", "digest", "size", "annotations"]), x
            )
        ),
        max_leaves=8,
    )
)
def test_any_json_is_a_manifest_or_a_user_error(document: object) -> None:
    with contextlib.suppress(UserError):
        assert isinstance(parse(json.dumps(document).encode(), OCI_MANIFEST), Manifest | Index)


def test_foreign_text_is_bounded() -> None:
    assert len(shown("x" * 1000)) == 257
    assert shown_list([str(number) for number in range(20)]).endswith("and 8 more")
    assert shown_list([]) == "none"
