"""A pod on disk, and where its files are."""

from pathlib import Path

import pytest

from tests.support.pods import bundle, config_map, container
from wasmlet.kube.types import ObjectMeta, Secret
from wasmlet.pods import bundle as bundles
from wasmlet.pods.bundle import Places


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


def test_places() -> None:
    made = bundle(container("main"), name="p", namespace="n").pod
    places = Places(Path("/pods"), Path("/logs"), made)
    uid = made.metadata.uid
    assert places.pod == Path(f"/pods/{uid}")
    assert places.exit_file("c", 2) == Path(f"/pods/{uid}/containers/c/2/exit.json")
    assert places.log_file("c", 2) == Path(f"/logs/n_p_{uid}/c/2.log")
