"""Images as one file: a tar of an OCI image layout, which podman and skopeo call `oci-archive` (and docker loads).

Everything in an archive is foreign: members that no layout has are passed over, every blob must have the digest that
its name says, and an image is entered only when all of it came. Functions block, and belong to commands.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, BinaryIO, Final

import msgspec

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.images import layouts
from wasmlet.images.entries import REFERENCE_NAME, Entry
from wasmlet.images.manifest import (
    INDEX_TYPES,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    Descriptor,
    Index,
    Manifest,
    parse,
)
from wasmlet.images.reference import parse_remote
from wasmlet.images.store import MissingBlobError, Store

__all__ = ["load", "save"]

CONTAINERD_NAME: Final = "io.containerd.image.name"
"""Where docker and containerd look for the whole name; they write only the tag as the layout's own annotation."""
MAX_MEMBERS: Final = 100_000
_PIECE: Final = 1 << 20
_BLOB: Final = re.compile(r"(?:\./)?blobs/sha256/([0-9a-f]{64})")
_UNREADABLE: Final = (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError)
_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'


def save(store: Store, names: Sequence[str], stream: BinaryIO) -> None:
    """Write images as one archive. The same images give the same bytes.

    Args:
        names: Canonical references.

    Raises:
        NotFoundError: The store does not have one, or not all of it.
        UserError: A blob is not what its digest says.
        OSError: The stream does not take it.
    """
    entries = [_complete(store, name) for name in names]
    manifests = [
        {
            "mediaType": entry.manifest.media_type, "digest": entry.manifest.digest, "size": entry.manifest.size,
            "annotations": {REFERENCE_NAME: entry.name, CONTAINERD_NAME: entry.name},
        }
        for entry, _ in entries
    ]  # fmt: skip
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    blobs = {blob.digest: blob for _, blobs in entries for blob in blobs}
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        _add(archive, "oci-layout", io.BytesIO(_LAYOUT), len(_LAYOUT))
        content = msgspec.json.encode(index)
        _add(archive, "index.json", io.BytesIO(content), len(content))
        for digest in sorted(blobs):
            _add_blob(archive, store, blobs[digest])


def load(store: Store, stream: IO[bytes], *, name: str | None = None) -> list[str]:
    """Take the images of an archive into the store, plain or compressed; their references.

    Args:
        name: What to call an image that the archive does not name.

    Raises:
        UserError: Not such an archive, a damaged one, or a part of one; an image without a name, or one that wasmlet
            does not read.
        RetryableError: The disk is full.
    """
    entries: list[Descriptor] | None = None
    others = list[str]()
    for path, size, content in _members(stream):
        if found := _BLOB.fullmatch(path):
            _take(store, Descriptor(media_type="", digest=f"sha256:{found[1]}", size=size), content)
        elif path.removeprefix("./") == "index.json":
            entries = _entries(content.read(MAX_MANIFEST_BYTES + 1))
        else:
            others.append(path)
    if entries is None:
        old = any(each.removeprefix("./") == "manifest.json" for each in others)
        hint = "save it with docker 25 or later, podman's --format oci-archive, or wasmlet" if old else None
        raise UserError("it is no OCI archive: there is no index.json in it", hint=hint)
    if not entries:
        raise UserError("there is no image in the archive")
    made = [_entry(store, each, name) for each in entries]
    for each in made:
        store.put(each)
    return [each.name for each in made]


def _complete(store: Store, name: str) -> tuple[Entry, list[Descriptor]]:
    content = store.find(name)
    if content is None:
        raise NotFoundError(f"image {name} is not in the store", hint="`wasmlet images` lists what is")
    return content.entry, [content.entry.manifest, content.manifest.config, *content.manifest.layers]


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, content)


def _add_blob(archive: tarfile.TarFile, store: Store, blob: Descriptor) -> None:
    with store.path(blob.digest).open("rb") as stream:
        reader = _Hashing(stream)
        _add(archive, f"blobs/sha256/{blob.digest.removeprefix('sha256:')}", io.BufferedReader(reader), blob.size)
    if reader.digest != blob.digest:
        raise UserError(f"blob {blob.digest} of the store is damaged", hint="pull its image again")


class _Hashing(io.RawIOBase):
    """Reads on, and hashes what it reads."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """Of what was read so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:  # its type has no name before Python 3.12
        """As of any stream."""
        content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        self._hash.update(content)
        return len(content)


def _members(stream: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Path, size and content of each regular file, in the archive's order."""
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_MEMBERS:
                    raise UserError(f"the archive has more than {MAX_MEMBERS} members")
                if member.isreg() and (content := archive.extractfile(member)) is not None:
                    with contextlib.closing(content):
                        yield member.name, member.size, content
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> UserError:
    return UserError(f"it cannot be read as an archive: {error}", hint="it must be a tar of an OCI layout")


def _take(store: Store, blob: Descriptor, content: IO[bytes]) -> None:
    with contextlib.closing(store.ingest()) as ingest:
        try:
            while piece := content.read(_PIECE):
                ingest.write([piece])
        except _UNREADABLE as error:  # cut in the middle of this blob
            raise _unreadable(error) from error
        if ingest.digest != blob.digest:
            raise UserError(f"it is damaged: blob {blob.digest} has {ingest.digest}", hint="make it or copy it again")
        ingest.commit(blob, store.path(blob.digest))


def _entries(content: bytes) -> list[Descriptor]:
    found = parse(content, OCI_INDEX) if len(content) <= MAX_MANIFEST_BYTES else None
    if not isinstance(found, Index):
        raise UserError("the archive's index.json is no index")
    return list(found.manifests)


def _entry(store: Store, described: Descriptor, name: str | None) -> Entry:
    """The store's entry of an image in the archive, which may be an index of platforms."""
    annotations = described.annotations or {}
    named = name or next(filter(None, _names(annotations)), None)
    if named is None:
        raise UserError("the archive does not name its image", hint="give it a name: --name REFERENCE")
    chosen = described
    if described.media_type in INDEX_TYPES:
        found = parse(_read(store, described, named), described.media_type)
        if isinstance(found, Index):
            chosen = layouts.choose_platform(found)
    manifest = parse(_read(store, chosen, named), chosen.media_type)
    if not isinstance(manifest, Manifest):
        raise UserError(f"image {named} is an index of indexes, which wasmlet does not read")
    missing = [each.digest for each in (manifest.config, *manifest.layers) if not store.holds(each)]
    if missing:
        raise _lacking(named, missing[0])
    return Entry(named, msgspec.structs.replace(chosen, annotations=None, platform=None), described.digest)


def _read(store: Store, blob: Descriptor, name: str) -> bytes:
    try:
        return store.read(blob)
    except MissingBlobError:
        raise _lacking(name, blob.digest) from None


def _lacking(name: str, digest: str) -> UserError:
    return UserError(f"it lacks a part of image {name}: {digest}", hint="make it or copy it again")


def _names(annotations: dict[str, str]) -> Iterable[str | None]:
    """The names that it may have, the best first; a lone tag (docker's) is none."""
    for key in (CONTAINERD_NAME, REFERENCE_NAME):
        text = annotations.get(key, "")
        if key == CONTAINERD_NAME or "/" in text:
            with contextlib.suppress(UserError):
                yield str(parse_remote(text))
