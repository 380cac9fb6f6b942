"""Pulls that are killed at any moment, and disks that are full in the middle: what they leave is whole."""

import asyncio
import dataclasses
import multiprocessing
import multiprocessing.synchronize
import os
import random
import time
from pathlib import Path

import pytest

from tests.support.disks import small_disk
from tests.support.registry import RunningRegistry
from tests.unit.images.fake_registry import FakeRegistry
from wasmlet.base.errors import RetryableError
from wasmlet.images.layouts import WASM_LAYER
from wasmlet.images.library import Library
from wasmlet.images.manifest import digest_of
from wasmlet.images.settings import Settings
from wasmlet.images.store import Store

IMAGES = 12
KILLS = 6
PROCESSES = multiprocessing.get_context("spawn")


def pull_again_and_again(directory: Path, references: list[str], begun: "multiprocessing.synchronize.Event") -> None:
    """In a process of its own: pull everything, throw it away, and begin again."""

    async def pull() -> None:
        library = Library(Settings(directory=directory))
        while True:
            begun.set()
            await asyncio.gather(*(library.pull(each) for each in references))
            for each in references[::2]:
                await library.discard(each)
            await library.remove_unneeded(older_than_seconds=-1)

    asyncio.run(pull())


async def test_kills_at_random_moments_leave_a_whole_store(
    settings: Settings, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    references = await push_some(settings, plain_registry, tmp_path)
    directory = tmp_path / "killed"
    store = Store(directory)
    moments = random.Random(0)
    for _ in range(KILLS):
        begun = PROCESSES.Event()
        process = PROCESSES.Process(target=pull_again_and_again, args=(directory, references, begun))
        process.start()
        assert await asyncio.to_thread(begun.wait, 30)
        await asyncio.sleep(moments.uniform(0.0, 0.4))
        process.kill()
        await asyncio.to_thread(process.join)
        check_whole(store)
    library = Library(dataclasses.replace(settings, directory=directory))
    for each in references:
        image, _ = await library.ensure(each, pull_policy="IfNotPresent")
        assert digest_of(image.module.read_bytes()) == image.digest
    await library.remove_unneeded(older_than_seconds=-1)
    await library.close()
    check_whole(store)
    assert list((directory / "ingest").iterdir()) == []
    assert list(directory.glob(".*")) == []


def check_whole(store: Store) -> None:
    """Every entry is of a complete image, and every blob is what its name says."""
    for entry in store.entries():
        assert store.find(entry.name) is not None, entry
    blobs = store.directory / "blobs/sha256"
    for blob in blobs.iterdir() if blobs.is_dir() else ():
        assert digest_of(blob.read_bytes())[7:] == blob.name


async def push_some(settings: Settings, registry: RunningRegistry, tmp_path: Path) -> list[str]:
    library, references = Library(settings), list[str]()
    for number in range(IMAGES):
        module = tmp_path / "module.wasm"
        # A custom section of 300,002 bytes, a name of one among them.
        module.write_bytes(b"\0asm\x01\0\0\0\0\xe2\xa7\x12\x01" + number.to_bytes(1) + os.urandom(300_000))
        references.append(f"{registry.address}/kills/image{number}:v{time.monotonic_ns()}")
        await library.push(module, references[-1])
    await library.close()
    return references


async def test_a_disk_that_is_full_in_the_middle_of_a_layer_is_said_and_left_as_it_was(
    settings: Settings, fake: FakeRegistry, tmp_path: Path
) -> None:
    small = fake.add_image("small")
    large = fake.add_image("large", module=b"\0asm\x01\0\0\0" + bytes(6 << 20))
    with small_disk(tmp_path / "disk", size="4m") as disk:
        library = Library(dataclasses.replace(settings, directory=disk / "images"))
        kept = await library.pull(small)
        with pytest.raises(RetryableError, match=r"No space left on device.*remove images"):
            await library.pull(large)
        assert list((disk / "images/ingest").iterdir()) == []
        assert (await library.ensure(small, pull_policy="Never"))[0] == kept
        fake.add_manifest("large", fake.manifest(WASM_LAYER, b"{}", (WASM_LAYER, kept.module.read_bytes())))
        await library.pull(large)
        await library.close()
