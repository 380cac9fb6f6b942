"""Images as one file: there and back, with skopeo, and what is wrong with others' archives."""

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.images.test_store import NAME, add_image, describe, found, manifest_of
from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.images import archives
from wasmlet.images.entries import REFERENCE_NAME
from wasmlet.images.layouts import WASM_CONFIG
from wasmlet.images.manifest import OCI_INDEX, OCI_MANIFEST, digest_of
from wasmlet.images.store import Store

OTHER = "example.test/other:v1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return Store(tmp_path / "empty")


def saved(store: Store, *names: str) -> bytes:
    stream = io.BytesIO()
    archives.save(store, names, stream)
    return stream.getvalue()


def archive_of(**members: bytes) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    stream.seek(0)
    return stream


def blobs(*contents: bytes) -> dict[str, bytes]:
    return {f"blobs/sha256/{digest_of(content)[7:]}": content for content in contents}


def index_of(manifest: bytes, media_type: str = OCI_MANIFEST, **annotations: str) -> bytes:
    line = {"mediaType": media_type, "digest": digest_of(manifest), "size": len(manifest), "annotations": annotations}
    return json.dumps({"schemaVersion": 2, "manifests": [line]}).encode()


def test_what_is_saved_can_be_loaded_and_is_the_same_each_time(store: Store, empty: Store) -> None:
    add_image(store)
    add_image(store, OTHER, b"other module")
    content = saved(store, NAME, OTHER)
    assert archives.load(empty, io.BytesIO(content)) == [NAME, OTHER]
    assert found(empty).manifest == found(store).manifest
    assert saved(empty, NAME, OTHER) == content
    assert archives.load(empty, io.BytesIO(saved(store, OTHER)), name="example.test/called:v2") == [
        "example.test/called:v2"
    ]
    assert empty.find("example.test/called:v2") is not None


def test_what_is_not_there_or_damaged_is_not_saved(store: Store) -> None:
    with pytest.raises(NotFoundError, match="is not in the store"):
        saved(store, NAME)
    add_image(store)
    store.path(digest_of(b"module")).write_bytes(b"eludom")
    with pytest.raises(UserError, match="is damaged"):
        saved(store, NAME)


def test_skopeo_reads_what_is_saved_and_writes_what_is_loaded(store: Store, empty: Store, tmp_path: Path) -> None:
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.fail("skopeo is missing; install it: apt-get install -y skopeo")
    add_image(store)
    (tmp_path / "saved.tar").write_bytes(saved(store, NAME))
    command = [skopeo, "--insecure-policy", "copy", "--quiet"]
    subprocess.run([*command, f"oci-archive:{tmp_path}/saved.tar:{NAME}", f"oci:{tmp_path}/layout:{NAME}"], check=True)
    assert Store(tmp_path / "layout").find(NAME) is not None
    subprocess.run([*command, f"oci:{tmp_path}/layout:{NAME}", f"oci-archive:{tmp_path}/theirs.tar:{NAME}"], check=True)
    with (tmp_path / "theirs.tar").open("rb") as stream:
        assert archives.load(empty, stream) == [NAME]
    assert found(empty).config == found(store).config


def test_an_index_gives_its_wasm_image_under_its_own_digest(empty: Store) -> None:
    manifest = manifest_of(b"module")
    line = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest)}
    platforms = [line | {"platform": {"os": "wasip1", "architecture": "wasm"}}]
    index = json.dumps({"schemaVersion": 2, "manifests": platforms}).encode()
    members = blobs(index, manifest, b"{}", b"module")
    outer = index_of(index, OCI_INDEX, **{"io.containerd.image.name": NAME, REFERENCE_NAME: "latest"})
    assert archives.load(empty, archive_of(**members, **{"index.json": outer})) == [NAME]
    assert found(empty).entry.resolved_digest == digest_of(index)


MANIFEST = manifest_of(b"module")
WHOLE = blobs(MANIFEST, b"{}", b"module")
NAMED = index_of(MANIFEST, **{REFERENCE_NAME: NAME})


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"index.json": NAMED} | blobs(MANIFEST, b"{}"), "lacks a part"),
        ({"index.json": NAMED}, "lacks a part"),
        (WHOLE | {"index.json": index_of(MANIFEST)}, "does not name its image"),
        (WHOLE | {"index.json": index_of(MANIFEST, **{REFERENCE_NAME: "v1"})}, "does not name"),
        (WHOLE | {"index.json": b"{"}, "not JSON"),
        (WHOLE | {"index.json": b'{"schemaVersion": 2, "manifests": []}'}, "no image"),
        (WHOLE, r"no index\.json"),
        ({"manifest.json": b"[]", "x/layer.tar": b""}, "docker 25"),
        ({"index.json": NAMED, next(iter(WHOLE)): b"other"}, "damaged: blob"),
    ],
)  # fmt: skip
def test_a_wrong_archive_is_refused_and_enters_nothing(empty: Store, members: dict[str, bytes], error: str) -> None:
    with pytest.raises(UserError, match=error):
        archives.load(empty, archive_of(**members))
    assert empty.entries() == []


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_a_cut_archive_or_none_at_all_is_refused(store: Store, empty: Store, pack: Callable[[bytes], bytes]) -> None:
    add_image(store, module=os.urandom(20_000))
    content = pack(saved(store, NAME).rstrip(b"\0"))
    for cut in (0, 1, 600, len(content) // 2, len(content) - 1100):
        with pytest.raises(UserError):
            archives.load(empty, io.BytesIO(content[:cut]))
    assert empty.entries() == []
    with pytest.raises(UserError, match="cannot be read as an archive"):
        archives.load(empty, io.BytesIO(b"no archive" * 100))


def test_members_that_climb_out_or_are_links_write_nothing(empty: Store, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("../escaped", "/escaped", "blobs/sha256/../../escaped"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
        link = tarfile.TarInfo(f"blobs/sha256/{digest_of(b'module')[7:]}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    stream.seek(0)
    with pytest.raises(UserError):
        archives.load(empty, stream)
    assert not list(tmp_path.rglob("*escaped*"))
    assert not empty.holds(describe(b"module", WASM_CONFIG))
