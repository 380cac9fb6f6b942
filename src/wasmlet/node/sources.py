"""What this machine's other rooms say of the node: images for the status, reasons against Ready (contract 1.3, 1.4)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from wasmlet.base.errors import WasmletError
from wasmlet.images.image import StoredImage
from wasmlet.images.library import Library
from wasmlet.node.status import Image
from wasmlet.sandbox.engines import Engines

__all__ = ["Machinery", "images_of"]


class Machinery:
    """Asked each 10 s, so it looks at little: one file's mark, one file system, one program.

    Args:
        directory: The agent's state, where facts of pods are kept.
    """

    def __init__(self, library: Library, engines: Engines, directory: Path) -> None:
        self._library = library
        self._engines = engines
        self._directory = directory
        self._mark: object = None
        self._images: tuple[Image, ...] = ()
        self._store_problem = ""

    def __repr__(self) -> str:
        return f"<Machinery {self._directory} images={len(self._images)}>"

    async def images(self) -> Sequence[Image]:
        """What the image store has; read again only when its list is another."""
        mark = self._library.mark()
        if mark != self._mark or self._store_problem:
            try:
                self._images = images_of(await self._library.images())
                self._store_problem = ""
            except WasmletError as error:
                self._store_problem = f"the image store cannot be read: {error.message}"
            self._mark = mark
        return self._images

    def problems(self) -> tuple[str, ...]:
        """Why no pod could be run here, one sentence each."""
        found = (self._store_problem, self._engines.launcher.problem, _disk_problem(self._directory))
        return tuple(each for each in found if each)


def images_of(stored: Sequence[StoredImage]) -> tuple[Image, ...]:
    """One image for each digest, by all the names that it has here."""
    names: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    for each in stored:
        if not each.repository:
            continue  # another tool wrote a name that is no reference
        names.setdefault(each.digest, set()).update((each.image_id, each.reference))
        sizes[each.digest] = each.size_bytes
    return tuple(Image(tuple(sorted(names[digest])), sizes[digest]) for digest in sorted(names))


def _disk_problem(directory: Path) -> str:
    """Pressure is a condition of its own; this is the end: nothing can be written down any more."""
    try:
        found = os.statvfs(directory)
    except OSError as error:
        return f"the state directory {directory} cannot be used: {error.strerror}"
    if found.f_flag & os.ST_RDONLY:
        return f"the file system of {directory} is read-only"
    # File systems without a fixed number of inodes (btrfs) say 0 of both.
    if found.f_bavail == 0 or (found.f_files and found.f_favail == 0):
        return f"the file system of {directory} is full"
    return ""
