"""What the room gives to others: an image that can be run, a line of the list of images, how far a pull is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wasmlet.images.application import Component
from wasmlet.images.configuration import ImageConfig
from wasmlet.images.trees import Tree

__all__ = ["Image", "Progress", "PullPolicy", "StoredImage"]

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is.

    Attributes:
        stage: `resolve` asks the registry what the name stands for, `download` moves the module and the layers.
        received_bytes: Of what is moved.
        total_bytes: Of what is moved; 0 while it is not known.
    """

    stage: Literal["resolve", "download"]
    reference: str
    received_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be run.

    Attributes:
        reference: Canonical.
        image_id: `registry/repository@sha256:…` as the registry resolved it; `sha256:…` for a local file.
        digest: Of the module's bytes, the key of everything compiled from it; "" when the program is in `tree`.
        module: The file with the Wasm bytes, or the directory of `tree`. Read only; a module stays while its digest
            is named in `in_use`.
        module_name: argv[0] of a container that gives no command; "" when the program is in `tree`.
        size_bytes: Of the module and the layers.
        tree: The root file system, None when the image has none.
        components: Of an application, whose files are in `tree` as `application` says; `module` is the first's.
    """

    reference: str
    image_id: str
    digest: str
    module: Path
    module_name: str
    config: ImageConfig
    size_bytes: int
    tree: Tree | None = None
    components: tuple[Component, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A line of the list of images.

    Attributes:
        digest: As the registry resolved the reference.
        size_bytes: Of all the image's blobs, and of the files they are unpacked to.
        created: When the image came into the store, RFC 3339; "" when another tool put it there.
    """

    reference: str
    digest: str
    size_bytes: int
    created: str

    @property
    def repository(self) -> str:
        """`registry/repository` of the reference."""
        whole = self.reference.partition("@")[0]
        path, colon, tag = whole.rpartition(":")
        return path if colon and "/" not in tag else whole

    @property
    def image_id(self) -> str:
        """As `Image.image_id`."""
        return f"{self.repository}@{self.digest}"
