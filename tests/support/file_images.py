"""Images of files, as docker builds them, from the standard library: layers, config, manifest, and where they go."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backports import zstd

from wasmlet.images.entries import Entry
from wasmlet.images.manifest import OCI_MANIFEST, Descriptor, digest_of
from wasmlet.images.store import Store

CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
TAR: Final = "application/vnd.oci.image.layer.v1.tar"
COMPRESSIONS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "": lambda content: content,
    "+gzip": lambda content: gzip.compress(content, mtime=0),
    "+zstd": zstd.compress,
}
MTIME: Final = 1_700_000_000


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """An entry of a layer; a file unless `type` says another."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), MTIME
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def directory(name: str) -> tuple[tarfile.TarInfo, bytes]:
    """A directory."""
    return member(name, type=tarfile.DIRTYPE, mode=0o755)


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A symbolic link."""
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A further name of a file."""
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def archive(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A layer's tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as opened:
        for info, content in members:
            opened.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def files(contents: Mapping[str, bytes]) -> bytes:
    """A layer of files alone."""
    return archive(member(name, content) for name, content in contents.items())


@dataclass(frozen=True)
class Built:
    """An image: its manifest, and every blob beside it by digest."""

    manifest: bytes
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def build(
    *layers: bytes,
    compression: str = "+gzip",
    platform: tuple[str, str] = ("wasi", "wasm"),
    diff_ids: Sequence[str] | None = None,
    annotations: Mapping[str, str] | None = None,
    extra_layers: Sequence[tuple[str, bytes]] = (),
    **execution: Any,
) -> Built:
    """An image of tar archives.

    Args:
        diff_ids: Instead of the right ones.
        extra_layers: Media types and blobs after them.
        execution: `Entrypoint=[…]`, `Env=[…]`, …
    """
    blobs = [(TAR + compression, COMPRESSIONS[compression](layer)) for layer in layers] + list(extra_layers)
    right = [digest_of(layer) for layer in layers]
    config = {
        "os": platform[0],
        "architecture": platform[1],
        "config": execution,
        "rootfs": {"type": "layers", "diff_ids": right if diff_ids is None else list(diff_ids)},
    }
    encoded = json.dumps(config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _described(CONFIG_TYPE, encoded),
        "layers": [_described(media_type, blob) for media_type, blob in blobs],
        **({"annotations": dict(annotations)} if annotations else {}),
    }
    every = {_digest(blob): blob for _, blob in blobs}
    return Built(json.dumps(manifest).encode(), {**every, _digest(encoded): encoded})


def put(store_directory: Path, name: str, built: Built) -> str:
    """The image in a store, as a pull would leave it; its reference."""
    store = Store(store_directory)
    for digest, blob in built.blobs.items():
        store.add(Descriptor(media_type="", digest=digest, size=len(blob)), blob)
    manifest = Descriptor(media_type=OCI_MANIFEST, digest=built.digest, size=len(built.manifest))
    store.add(manifest, built.manifest)
    store.put(Entry(name, manifest, built.digest))
    return name


def _described(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"
