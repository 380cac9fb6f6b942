"""The store on disk: complete images, shared by processes, through kills and damage."""

import contextlib
import json
import multiprocessing
import os
import signal
from pathlib import Path
from unittest import mock

import pytest

from tests.support.disks import small_disk
from wasmlet.base.errors import NotFoundError, RetryableError
from wasmlet.images import store as store_module
from wasmlet.images.entries import REFERENCE_NAME, Entry
from wasmlet.images.layouts import WASM_CONFIG, WASM_LAYER
from wasmlet.images.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, digest_of
from wasmlet.images.store import Content, MissingBlobError, Store

NAME = "example.test/hello:latest"
PROCESSES = multiprocessing.get_context("spawn")


def describe(content: bytes, media_type: str = "x") -> Descriptor:
    return Descriptor(media_type=media_type, digest=digest_of(content), size=len(content))


def manifest_of(module: bytes, config: bytes = b"{}") -> bytes:
    def line(content: bytes, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}

    document = {"schemaVersion": 2, "config": line(config, WASM_CONFIG), "layers": [line(module, WASM_LAYER)]}
    return json.dumps(document).encode()


def add_image(store: Store, name: str = NAME, module: bytes = b"module") -> Entry:
    manifest = manifest_of(module)
    for content in (module, b"{}", manifest):
        store.add(describe(content), content)
    entry = Entry(name, describe(manifest, OCI_MANIFEST), digest_of(manifest))
    store.put(entry)
    return entry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


def found(store: Store, name: str = NAME) -> Content:
    content = store.find(name)
    assert content is not None
    return content


def test_an_image_is_found_by_its_name_and_by_its_digest(store: Store) -> None:
    entry = add_image(store)
    content = found(store)
    assert content.config == b"{}"
    assert store.path(content.manifest.layers[0].digest).read_bytes() == b"module"
    assert store.find_resolved("example.test/hello", entry.resolved_digest) == content
    assert store.find_resolved("example.test/hell", entry.resolved_digest) is None
    assert store.find("example.test/hello:other") is None
    assert store.size_bytes(entry) == entry.manifest.size + 2 + 6


def test_the_directory_is_an_oci_layout_and_private(store: Store) -> None:
    add_image(store)
    assert json.loads((store.directory / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.directory / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    assert index["mediaType"] == OCI_INDEX
    assert [descriptor["annotations"][REFERENCE_NAME] for descriptor in index["manifests"]] == [NAME]
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert list((store.directory / "ingest").iterdir()) == []


def test_nothing_is_found_and_nothing_is_made_before_the_first_image(store: Store) -> None:
    assert store.find(NAME) is None
    assert store.entries() == []
    assert not store.directory.exists()


@pytest.mark.parametrize("damage", ["shorter", "gone", "link", "directory"])
def test_an_image_with_a_damaged_module_counts_as_absent(store: Store, damage: str) -> None:
    add_image(store)
    path = store.path(digest_of(b"module"))
    path.unlink()
    if damage == "shorter":
        path.write_bytes(b"mod")
    elif damage == "link":
        path.symlink_to("/etc/hostname")
    elif damage == "directory":
        path.mkdir()
    assert store.find(NAME) is None
    assert len(store.entries()) == 1
    if damage != "directory":
        add_image(store)
        assert store.find(NAME) is not None


def test_a_small_blob_with_the_right_length_and_other_content_counts_as_absent(store: Store) -> None:
    add_image(store)
    store.path(digest_of(b"{}")).write_bytes(b"[]")
    assert store.holds(describe(b"{}"))
    assert store.find(NAME) is None
    with pytest.raises(MissingBlobError):
        store.read(describe(b"{}"))


def test_an_image_is_entered_only_when_all_of_it_is_there(store: Store) -> None:
    manifest = manifest_of(b"module")
    store.add(describe(manifest), manifest)
    with pytest.raises(MissingBlobError, match="removed"):
        store.put(Entry(NAME, describe(manifest, OCI_MANIFEST), digest_of(manifest)))
    assert store.entries() == []


def test_a_name_moves_to_the_newer_image(store: Store) -> None:
    add_image(store)
    add_image(store, module=b"newer")
    (entry,) = store.entries()
    assert found(store).manifest.layers[0].digest == digest_of(b"newer")
    assert entry.stored_at.endswith("Z")


def test_removal_keeps_what_others_need_and_what_is_in_use(store: Store) -> None:
    add_image(store, "example.test/a:1", b"shared")
    add_image(store, "example.test/b:1", b"shared")
    add_image(store, "example.test/c:1", b"running")
    store.remove("example.test/a:1", in_use=())
    assert store.find("example.test/b:1") is not None
    store.remove("example.test/b:1", in_use=())
    assert not store.path(digest_of(b"shared")).exists()
    store.remove("example.test/c:1", in_use={digest_of(b"running")})
    assert store.path(digest_of(b"running")).exists()
    assert store.entries() == []
    with pytest.raises(NotFoundError, match=r"example\.test/a:1"):
        store.remove("example.test/a:1", in_use=())


def test_what_other_tools_wrote_is_kept(store: Store) -> None:
    add_image(store)
    nested = json.dumps({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, **described(store)}]}).encode()
    store.add(describe(nested), nested)
    index = json.loads((store.directory / "index.json").read_bytes())
    foreign = {"mediaType": OCI_INDEX, "digest": digest_of(nested), "size": len(nested), "x-unknown": [1]}
    index["manifests"].append(foreign)
    (store.directory / "index.json").write_text(json.dumps(index))
    store.remove(NAME, in_use=())
    assert json.loads((store.directory / "index.json").read_bytes())["manifests"] == [foreign]
    assert store.path(digest_of(b"module")).exists()


def described(store: Store) -> dict[str, object]:
    (entry,) = store.entries()
    return {"digest": entry.manifest.digest, "size": entry.manifest.size}


@pytest.mark.parametrize("content", ["{", "[" * 10_000, '{"manifests": 1}', "\0" * 100])
def test_an_index_that_is_none_counts_as_empty_and_is_kept_beside_the_next_one(store: Store, content: str) -> None:
    add_image(store)
    (store.directory / "index.json").write_text(content)
    assert store.find(NAME) is None
    assert store.entries() == []
    add_image(store)
    assert store.find(NAME) is not None
    assert (store.directory / "index.json.damaged").read_text() == content


def test_an_empty_index_is_empty(store: Store) -> None:
    add_image(store)
    (store.directory / "index.json").write_text("")
    assert store.entries() == []


def test_a_held_lock_is_waited_for_with_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.prepare()
    monkeypatch.setattr(store_module, "LOCK_WAIT_SECONDS", 0.05)
    with store._locked(), pytest.raises(RetryableError, match="locked by another process"):
        store.remove(NAME, in_use=())


def test_a_digest_from_outside_never_becomes_a_path(store: Store) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        store.path("sha256:../../../etc/passwd")


@pytest.mark.timeout(120)
def test_processes_share_a_store(store: Store) -> None:
    count = 12
    workers = [PROCESSES.Process(target=add_many_patiently, args=(store.directory, worker, count)) for worker in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    expected = {f"example.test/{worker}:{number}" for worker in (1, 2) for number in range(count) if number % 3 != 2}
    assert {entry.name for entry in store.entries()} == expected
    assert all(store.find(name) is not None for name in expected)


def add_many_patiently(directory: Path, worker: int, count: int) -> None:
    """As the library: the other process may remove a blob that both images have, and then it is stored again."""
    store = Store(directory)
    for number in range(count):
        name = f"example.test/{worker}:{number}"
        while True:
            try:
                add_image(store, name, f"module {number}".encode())
                break
            except MissingBlobError:
                continue
        if number % 3 == 2:
            store.remove(name, in_use=())


def kill_before_rename(path: Path, content: bytes) -> None:
    path.with_name(f".{path.name}.1.abcd").write_bytes(content[:10])
    os.kill(os.getpid(), signal.SIGKILL)


def write_until_killed(directory: Path, where: str) -> None:
    """In a process of its own: kill -9 oneself in the middle of things."""
    store = Store(directory)
    if where == "ingest":
        ingest = store.ingest()
        ingest.write([b"half a module"])
    elif where == "between":
        store.add(describe(b"module"), b"module")
    elif where == "index":
        mock.patch.object(store_module, "write_atomically", kill_before_rename).start()
        add_image(store)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("where", ["ingest", "between", "index"])
def test_a_kill_leaves_a_store_that_works(store: Store, where: str) -> None:
    add_image(store, "example.test/before:1", b"before")
    process = PROCESSES.Process(target=write_until_killed, args=(store.directory, where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    after = Store(store.directory)
    after.prepare()
    assert list((store.directory / "ingest").iterdir()) == []
    assert list(store.directory.glob(".*")) == []
    assert after.find("example.test/before:1") is not None
    assert after.find(NAME) is None
    add_image(after)
    assert after.find(NAME) is not None


def test_a_full_disk_is_no_reason_to_keep_an_image(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="1m") as disk:
        store = Store(disk / "images")
        add_image(store, "example.test/kept:v1", b"kept")
        add_image(store, module=bytes(100_000))
        with contextlib.suppress(OSError), (disk / "full").open("wb", buffering=0) as full:
            while full.write(bytes(4096)):
                pass
        with pytest.raises(RetryableError, match="No space left"):
            add_image(store, "example.test/more:v1", b"more")
        assert store.remove(NAME, in_use=()) > 100_000
        assert [entry.name for entry in store.entries()] == ["example.test/kept:v1"]
        assert found(store, "example.test/kept:v1").config == b"{}"
