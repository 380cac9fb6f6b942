"""What the rooms say of the node, from a real store and real engines."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.agent import Agent
from wasmlet.base.errors import RetryableError
from wasmlet.images.entries import Entry
from wasmlet.images.image import StoredImage
from wasmlet.images.library import Library
from wasmlet.images.manifest import Descriptor, digest_of
from wasmlet.images.settings import Settings as ImageSettings
from wasmlet.images.store import Store
from wasmlet.node.sources import Machinery, images_of
from wasmlet.node.status import Image
from wasmlet.sandbox import launching
from wasmlet.sandbox.engines import Engines, PoolKey, Settings

DIGESTS = [f"sha256:{each * 64}" for each in "ab"]


def stored(reference: str, digest: str, size_bytes: int = 1) -> StoredImage:
    return StoredImage(reference, digest, size_bytes, "")


def test_images_have_all_their_names() -> None:
    a, b = DIGESTS
    found = images_of([
        stored("example.com:5000/x/y:1", a, 7), stored("example.com:5000/x/y:2", a, 7),
        stored(f"example.com:5000/x/y@{a}", a, 7), stored("other.example/z", b, 9), stored("", b, 9),
    ])  # fmt: skip
    assert found == (
        Image(("example.com:5000/x/y:1", "example.com:5000/x/y:2", f"example.com:5000/x/y@{a}"), 7),
        Image(("other.example/z", f"other.example/z@{b}"), 9),
    )


def add(directory: Path, name: str) -> str:
    """An image of nothing but a manifest."""
    store = Store(directory)
    store.prepare()
    config = b"{}"
    content = b"""{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "%s", "size": 2}, "layers": []}
    """ % digest_of(config).encode()
    for each, kind in ((config, "config"), (content, "manifest")):
        media_type = f"application/vnd.oci.image.{kind}.v1+json"
        manifest = Descriptor(media_type=media_type, digest=digest_of(each), size=len(each))
        store.add(manifest, each)
    store.put(Entry(name, manifest, manifest.digest))
    return manifest.digest


async def test_the_store_is_read_again_only_when_it_changed(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    real = Library.images

    async def images(self: Library) -> list[StoredImage]:
        nonlocal reads
        reads += 1
        return await real(self)

    monkeypatch.setattr(Library, "images", images)
    machinery = Machinery(agent.library, agent.engines, agent.directory)
    assert await machinery.images() == ()
    digest = add(agent.directory / "images", "example.com/a:1")
    for _ in range(3):
        (image,) = await machinery.images()
        assert image.names == ("example.com/a:1", f"example.com/a@{digest}")
    assert reads == 1
    add(agent.directory / "images", "example.com/a:2")
    assert [each.names[:2] for each in await machinery.images()] == [("example.com/a:1", "example.com/a:2")]
    assert reads == 2


async def test_a_broken_store_is_told_until_it_is_well(agent: Agent) -> None:
    machinery = Machinery(agent.library, agent.engines, agent.directory)
    add(agent.directory / "images", "example.com/a:1")
    index = agent.directory / "images" / "index.json"
    content = index.read_bytes()
    index.unlink()
    index.mkdir()  # one that holds something else is put aside by the next pull
    assert await machinery.images() == ()
    assert [each for each in machinery.problems() if each.startswith("the image store cannot be read: ")]
    index.rmdir()
    index.write_bytes(content)
    assert len(await machinery.images()) == 1
    assert machinery.problems() == ()


async def test_engines_that_do_not_start_are_told_at_once(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machinery = Machinery(agent.library, agent.engines, agent.directory)
    told: list[tuple[str, ...]] = []
    agent.engines.launcher.on_trouble = lambda: told.append(machinery.problems())
    program = agent.engines.launcher.program
    broken = tmp_path / "engine"
    broken.write_text("#!/bin/sh\necho no memory\nexit 1\n")
    broken.chmod(0o755)
    agent.engines.launcher.program = broken
    for _ in range(2):
        with pytest.raises(RetryableError):
            await agent.engines.acquire(PoolKey("default"))
    ((problem,),) = told
    assert problem.startswith("the engine ended at its start: no memory")
    monkeypatch.setattr(launching, "TROUBLE_SECONDS", 0.0)
    assert machinery.problems() == ()
    monkeypatch.undo()
    agent.engines.launcher.program = program
    await agent.engines.acquire(PoolKey("default"))
    assert told[1:] == [()]
    agent.engines.launcher.program = tmp_path / "nothing"
    assert machinery.problems() == (f"the engine's program {tmp_path / 'nothing'} cannot be executed",)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({}, ""),
        ({"f_flag": os.ST_RDONLY}, "is read-only"),
        ({"f_bavail": 0}, "is full"),
        ({"f_favail": 0}, "is full"),
        ({"f_files": 0, "f_favail": 0}, ""),
    ],
)
def test_a_disk_on_which_nothing_can_be_kept(
    tmp_path: Path, engine_program: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, int], problem: str
) -> None:
    pool = Engines(Settings(directory=tmp_path / "engines"), program=engine_program)
    machinery = Machinery(Library(ImageSettings(directory=tmp_path / "images")), pool, tmp_path)
    usual = {"f_flag": 0, "f_bavail": 5, "f_files": 5, "f_favail": 5}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**(usual | found)))
    assert [each.endswith(problem) for each in machinery.problems()] == [True] * bool(problem)


def test_a_state_directory_that_is_gone(tmp_path: Path, engine_program: Path) -> None:
    pool = Engines(Settings(directory=tmp_path / "engines"), program=engine_program)
    machinery = Machinery(Library(ImageSettings(directory=tmp_path / "images")), pool, tmp_path / "gone")
    (problem,) = machinery.problems()
    assert problem.endswith("cannot be used: No such file or directory")
