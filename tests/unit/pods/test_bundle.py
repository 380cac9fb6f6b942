"""A pod on disk."""

from pathlib import Path

import pytest

from tests.support.pods import bundle, config_map, container
from wasmlet.kube.types import ObjectMeta, Secret
from wasmlet.pods import bundle as bundles


def test_a_bundle_goes_round_and_is_its_owners_only(tmp_path: Path) -> None:
    secret = Secret(metadata=ObjectMeta(name="s", namespace="default"), string_data={"k": "v"})
    made = bundle(container("main"), config_maps=[config_map("m", a="1")], secrets=[secret])
    bundles.save(tmp_path, made)
    assert bundles.load(tmp_path) == made
    assert (tmp_path / bundles.FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"pod": []}'])
def test_what_cannot_be_read_counts_as_absent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / bundles.FILE_NAME).write_bytes(content)
    assert bundles.load(tmp_path) is None


async def test_documents_come_with_it() -> None:
    made = bundle(container("main"), config_maps=[config_map("m", a="1")])
    assert (await made.documents().config_map("default", "m")).data == {"a": "1"}
