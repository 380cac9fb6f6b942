"""The store: an OCI image layout directory (image-spec 1.1, image-layout.md), shared by processes.

    oci-layout  index.json  blobs/sha256/<hex>     as the specification has them, so that skopeo can read and write them
    ingest/<random>                                blobs that are still coming, each locked by its writer
    lock                                           held around every change of index.json and every deletion of blobs

`index.json` is the truth: an image is there when its entry is and every blob has the length that its descriptor says.
Everything is written beside its place and renamed, so a kill at any byte leaves either the old or the new. All
methods block for the time of a few small files, and belong in a thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.base.files import read_if_present, write_atomically
from wasmlet.images.access import Access
from wasmlet.images.collection import Disk
from wasmlet.images.entries import ACCESS, Entry, decode, descriptor_of, from_raw, name_of, to_raw
from wasmlet.images.ingest import FULL, Ingest, sweep, translated
from wasmlet.images.manifest import (
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    digest_of,
    parse,
)
from wasmlet.images.reference import is_digest

LOCK_WAIT_SECONDS: Final = 30.0  # far longer than any holder works; a stopped process must not stop us for ever
_LOCK_POLL_SECONDS: Final = 0.01
DAMAGED: Final = "index.json.damaged"
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Content:
    """A complete image in the store.

    Attributes:
        config: The content of the config blob.
    """

    entry: Entry
    manifest: Manifest
    config: bytes


class MissingBlobError(RetryableError):
    """A blob vanished between its download and the image's entry (another process removed an image): pull again."""


class Store:
    """Images on disk. Several objects, in several processes, may use one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._blobs = directory / "blobs" / "sha256"
        self._ingest = directory / "ingest"
        self._index = directory / "index.json"
        self._prepared = False

    def prepare(self) -> None:
        """Make the directory when it is missing, and remove what killed writers left. Idempotent.

        Raises:
            UserError: The directory may not be used.
            RetryableError: The disk is full.
        """
        if self._prepared and self._ingest.is_dir():
            return
        with translated(self.directory, "make"):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in (self._blobs, self._ingest):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                for leftover in self.directory.glob(".*.json.*"):  # of write_atomically, under our lock
                    leftover.unlink(missing_ok=True)
                if not (self.directory / "oci-layout").exists():
                    write_atomically(self.directory / "oci-layout", _LAYOUT)
                if not self._index.exists():
                    self._write([])
            sweep(self._ingest)
        self._prepared = True

    def mark(self) -> tuple[int, int] | None:
        """Which version of index.json this is (it is replaced, never changed); None: there is none."""
        try:
            found = self._index.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def path(self, digest: str) -> Path:
        """Where the blob lies, or would lie."""
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        return self._blobs / digest.removeprefix("sha256:")

    def holds(self, blob: Descriptor) -> bool:
        """Whether the blob is there with the right length; the library looks at its digest before it is used."""
        try:
            status = os.lstat(self.path(blob.digest))
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == blob.size

    def read(self, blob: Descriptor) -> bytes:
        """The content of a small blob that came in just now.

        Raises:
            MissingBlobError: It is gone.
        """
        with translated(self.directory, "read"):
            content = self._small(blob)
        if content is None:
            raise MissingBlobError(f"blob {blob.digest} was removed after it was stored", hint="try again")
        return content

    def ingest(self) -> Ingest:
        """A place for a blob to come in; close it in any case.

        Raises:
            RetryableError: The disk is full.
        """
        self.prepare()
        return Ingest(self._ingest)

    def add(self, blob: Descriptor, content: bytes) -> None:
        """Store a small blob.

        Raises:
            RetryableError: The content is not the blob, or the disk is full.
        """
        with contextlib.closing(self.ingest()) as ingest:
            ingest.write([content])
            ingest.commit(blob, self.path(blob.digest))

    def put(self, entry: Entry) -> None:
        """Write the entry in the place of those with its name.

        Raises:
            MissingBlobError: A blob of the image is not here (any more).
            RetryableError: The disk is full, or the lock is held for too long.
        """
        self.prepare()
        with translated(self.directory, "write to"), self._locked():
            if self._content(entry) is None:
                raise MissingBlobError(f"a blob of {entry.name} was removed while it was stored", hint="try again")
            descriptors = self._read()
            for before in filter(None, map(from_raw, descriptors)):
                if before.access and entry.access and (before.name, before.resolved_digest) == (
                    entry.name, entry.resolved_digest,
                ):  # fmt: skip
                    entry = dataclasses.replace(entry, access=before.access.joined(entry.access))
            self._write([*(found for found in descriptors if name_of(found) != entry.name), to_raw(entry)])

    def grant(self, entry: Entry, access: Access) -> None:
        """Keep who may use an image besides, as far as it is still there.

        Raises:
            RetryableError: The disk is full, or the lock is held for too long.
        """
        with translated(self.directory, "write to"), self._locked():
            descriptors = self._read()
            for number, found in enumerate(descriptors):
                now = from_raw(found)
                if now is None or (now.name, now.resolved_digest) != (entry.name, entry.resolved_digest):
                    continue
                joined = access if now.access is None else now.access.joined(access)
                if joined != now.access:
                    annotations = {**found.get("annotations", {}), ACCESS: msgspec.json.encode(joined).decode()}
                    descriptors[number] = {**found, "annotations": annotations}
                    self._write(descriptors)
                return

    def content(self, entry: Entry) -> Content | None:
        """The image of an entry; a damaged one counts as absent."""
        with translated(self.directory, "read"):
            return self._content(entry)

    def find(self, name: str) -> Content | None:
        """The complete image of that name; a damaged one counts as absent."""
        return self._first(lambda entry: entry.name == name)

    def find_resolved(self, repository: str, digest: str) -> Content | None:
        """A complete image that came from `repository` (with its registry) as `digest`, under whatever tag."""
        prefixes = (f"{repository}:", f"{repository}@")
        return self._first(lambda entry: entry.resolved_digest == digest and entry.name.startswith(prefixes))

    def entries(self) -> list[Entry]:
        """Every named image in the index, damaged ones too."""
        with translated(self.directory, "read"):
            return [entry for found in self._read() if (entry := from_raw(found)) is not None]

    def size_bytes(self, entry: Entry) -> int:
        """The lengths of the image's blobs together, as its manifest says."""
        manifest = self._manifest(entry.manifest)
        blobs = (manifest.config, *manifest.layers) if isinstance(manifest, Manifest) else ()
        return entry.manifest.size + sum(blob.size for blob in {blob.digest: blob for blob in blobs}.values())

    def remove(self, name: str, *, in_use: Collection[str]) -> int:
        """Remove the name, and the blobs of its image that no other image needs; the bytes that this frees.

        Args:
            in_use: Digests of blobs that stay whatever happens (modules of running containers).

        Raises:
            NotFoundError: There is no such image.
            RetryableError: The lock is held for too long.
        """
        self.prepare()
        with translated(self.directory, "write to"), self._locked():
            descriptors = self._read()
            gone = [found for found in descriptors if name_of(found) == name]
            if not gone:
                raise NotFoundError(f"image {name} is not in the store", hint="`wasmlet images` lists what is")
            kept = [found for found in descriptors if name_of(found) != name]
            unneeded = self._reachable(gone) - self._reachable(kept) - set(in_use)
            # The entry goes first: killed in between, we leave orphans, never an image without its blobs.
            try:
                self._write(kept)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                freed = self._unlink(unneeded)  # what stays an entry for a moment counts as absent
                self._write(kept)
                return freed
            return self._unlink(unneeded)

    def remove_unneeded(self, *, older_than_seconds: float, in_use: Collection[str] = ()) -> int:
        """Remove what no image needs: blobs that a moved tag or a killed process left; the bytes that this frees.

        Args:
            older_than_seconds: Younger blobs may be of an image that is coming in, and stay.
            in_use: Digests of blobs that stay whatever happens.

        Raises:
            RetryableError: The lock is held for too long.
        """
        self.prepare()
        sweep(self._ingest)
        with translated(self.directory, "write to"), self._locked():
            needed = {digest.removeprefix("sha256:") for digest in (*self._reachable(self._read()), *in_use)}
            before, freed = time.time() - older_than_seconds, 0
            for path in self._blobs.iterdir():
                if path.name not in needed and path.lstat().st_mtime < before:
                    freed += _unlink(path)
            return freed

    def disk(self) -> Disk:
        """The file system that holds the store.

        Raises:
            RetryableError: It does not answer.
        """
        self.prepare()
        with translated(self.directory, "read"):
            found = os.statvfs(self.directory)
        return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def _first(self, fits: Callable[[Entry], bool]) -> Content | None:
        with translated(self.directory, "read"):
            for entry in self.entries():
                if fits(entry) and (content := self._content(entry)) is not None:
                    return content
        return None

    def _content(self, entry: Entry) -> Content | None:
        manifest = self._manifest(entry.manifest)
        if not isinstance(manifest, Manifest) or not all(self.holds(layer) for layer in manifest.layers):
            return None
        config = self._small(manifest.config)
        return None if config is None else Content(entry, manifest, config)

    def _manifest(self, descriptor: Descriptor) -> Manifest | Index | None:
        content = self._small(descriptor)
        if content is None:
            return None
        try:
            return parse(content, descriptor.media_type)
        except UserError:
            return None  # Another tool's, of a kind that we do not read.

    def _small(self, blob: Descriptor) -> bytes | None:
        """The content of a small blob whose digest is right, else None."""
        if blob.size > MAX_MANIFEST_BYTES or not self.holds(blob):
            return None
        content = read_if_present(self.path(blob.digest))
        return content if content is not None and digest_of(content) == blob.digest else None

    def _reachable(self, descriptors: list[dict[str, Any]]) -> set[str]:
        """The digests that these index entries need, through nested indexes."""
        digests: set[str] = set()
        waiting = [found for found in map(descriptor_of, descriptors) if found is not None]
        while waiting:
            blob = waiting.pop()
            if blob.digest in digests:
                continue
            digests.add(blob.digest)
            manifest = self._manifest(blob)
            if isinstance(manifest, Manifest):
                digests.update(child.digest for child in (manifest.config, *manifest.layers))
            elif isinstance(manifest, Index):
                waiting.extend(manifest.manifests)
        return digests

    def _read(self) -> list[dict[str, Any]]:
        """The raw entries of index.json; those of other tools must survive our changes unread."""
        content = read_if_present(self._index)
        return [] if not content or (found := decode(content)) is None else found

    def _write(self, descriptors: list[dict[str, Any]]) -> None:
        content = read_if_present(self._index)
        if content and decode(content) is None:
            # What it named is pulled again when it is needed: better than a node that starts nothing.
            kept = self._index.with_name(DAMAGED)
            os.rename(self._index, kept)
            _log.warning("the image store's index was damaged and begins anew", extra={"kept": str(kept)})
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
        write_atomically(self._index, msgspec.json.encode(document))

    def _unlink(self, digests: Collection[str]) -> int:
        """Remove blobs; the bytes that this frees."""
        return sum(_unlink(self.path(digest)) for digest in digests)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_up = time.monotonic() + LOCK_WAIT_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise RetryableError(
                            f"the image store {self.directory} is locked by another process since "
                            f"{LOCK_WAIT_SECONDS:.0f} s",
                            hint=f"see who holds it: lsof {self.directory / 'lock'}",
                        ) from None
                    time.sleep(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _unlink(path: Path) -> int:
    """Remove a blob; the bytes that this frees. A directory in a blob's place, which somebody made, stays."""
    try:
        size = path.lstat().st_size
        path.unlink()
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        return 0
    return size
