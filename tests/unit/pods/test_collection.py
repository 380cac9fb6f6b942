"""Unused images go when the disk is full: a real store on a small disk, and pods that use some of it."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.disks import small_disk
from tests.support.pods import bundle, container
from tests.unit.images.test_store import add_image
from wasmlet.images.collection import Policy
from wasmlet.images.library import Library
from wasmlet.images.settings import Settings
from wasmlet.images.store import Store
from wasmlet.kube.types import Container
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.collection import Collection, used_by
from wasmlet.pods.facts import Attempt, ContainerFacts, Facts

SIZE = 1 << 20


@dataclasses.dataclass
class Pod:
    """What is asked of a worker."""

    bundle: Bundle
    facts: Facts
    is_gone: bool = False


class Node:
    """A collection whose clock and pods the test moves."""

    def __init__(self, library: Library, store: Store, policy: Policy) -> None:
        self.now, self.told, self.pods = 1000.0, list[tuple[str, str]](), list[Pod]()
        self.store = store
        self.collection = Collection(
            library, policy, workers=lambda: self.pods, tell=lambda *each: self.told.append(each),  # type: ignore[arg-type, return-value]
            clock=lambda: self.now,
        )  # fmt: skip

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.store.entries())


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    with small_disk(tmp_path / "disk", size="10m") as disk:
        library = Library(Settings(directory=disk / "images"))
        yield Node(library, Store(disk / "images"), Policy(pinned=("*/pinned:*",)))
        await library.close()


def using(*images: str, image_id: str = "", is_gone: bool = False) -> Pod:
    made = bundle(*(of_image(each, number) for number, each in enumerate(images)))
    facts = Facts(uid=made.uid, seen_at=0)
    if image_id:
        facts.containers["old"] = ContainerFacts(
            attempts=[Attempt(number=0, id="x", engine="x", created_at=0, image_id=image_id)]
        )
    return Pod(made, facts, is_gone)


def of_image(image: str, number: int) -> Container:
    made = container(f"c{number}")
    made.image = image
    return made


def fill(node: Node, *names: str) -> None:
    for name in names:
        add_image(node.store, f"example.test/{name}:v1", module=name.encode() + bytes(SIZE))


async def test_a_disk_with_room_keeps_everything(node: Node) -> None:
    fill(node, "a", "b")
    await node.collection.look()
    node.now += 10_000
    await node.collection.look()
    assert len(node.names()) == 2
    assert node.told == []


async def test_a_full_disk_loses_unused_images_and_nothing_more_than_needed(node: Node) -> None:
    fill(node, "used", "by-id", "pinned", *"abcdef")
    by_id = next(entry for entry in node.store.entries() if "by-id" in entry.name)
    node.pods = [
        using("example.test/used:v1", "not:a:reference"),
        using(image_id=f"example.test/by-id@{by_id.resolved_digest}", is_gone=True),
        using("example.test/a:v1", is_gone=True),
    ]
    await node.collection.look()
    assert len(node.names()) == 9  # all of them are young
    node.told.clear()
    node.now += 121
    await node.collection.look()
    assert {"example.test/used:v1", "example.test/by-id:v1", "example.test/pinned:v1"} <= set(node.names())
    assert len(node.names()) == 7
    assert node.told == []


async def test_a_disk_full_of_used_images_is_told(node: Node) -> None:
    names = [*"abcdefghi"]
    fill(node, *names)
    node.pods = [using(*(f"example.test/{name}:v1" for name in names))]
    for _ in range(2):
        await node.collection.look()
        node.now += 300
    assert len(node.names()) == 9
    assert [reason for reason, _ in node.told] == ["FreeDiskSpaceFailed", "FreeDiskSpaceFailed", "ImageGCFailed"]
    assert "of 10.0 MiB used). Failed to free sufficient space by deleting unused images (freed 0" in node.told[0][1]


async def test_old_images_go_from_an_empty_disk(tmp_path: Path) -> None:
    library = Library(Settings(directory=tmp_path / "images"))
    policy = Policy(high_percent=100, low_percent=99, maximum_age_seconds=1000)
    node = Node(library, Store(tmp_path / "images"), policy)
    fill(node, "used", "old")
    node.pods = [using("example.test/used:v1")]
    await node.collection.look()
    node.now += 1001
    await node.collection.look()
    assert node.names() == ["example.test/used:v1"]
    await library.close()


async def test_blobs_that_no_image_needs_go_once_they_are_old(tmp_path: Path) -> None:
    library = Library(Settings(directory=tmp_path / "images"))
    store = Store(tmp_path / "images")
    add_image(store, "example.test/a:v1", module=b"before")
    add_image(store, "example.test/a:v1", module=b"after")
    blobs = tmp_path / "images/blobs/sha256"
    assert await library.remove_unneeded(older_than_seconds=60) == 0
    assert await library.remove_unneeded(older_than_seconds=-1) > len(b"before")
    assert len(list(blobs.iterdir())) == 3
    assert store.find("example.test/a:v1") is not None
    await library.close()


def test_what_pods_use_is_counted_from_spec_and_facts() -> None:
    assert used_by([using("hello", image_id="x@sha256:1")]) == {  # type: ignore[list-item]
        "docker.io/library/hello:latest", "x@sha256:1", "",
    }  # fmt: skip
    assert used_by([using("hello", is_gone=True)]) == set()  # type: ignore[list-item]
