"""The lines of the store's index.json: ours, and those of other tools, which survive our changes unread."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from wasmlet.images.access import Access
from wasmlet.images.manifest import INDEX_TYPES, Descriptor
from wasmlet.images.reference import is_digest

REFERENCE_NAME: Final = "org.opencontainers.image.ref.name"
RESOLVED_DIGEST: Final = "dev.wasmlet.resolved-digest"
STORED_AT: Final = "dev.wasmlet.stored-at"
ACCESS: Final = "dev.wasmlet.access"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of index.json: a name and the manifest that it stands for.

    Attributes:
        name: The canonical reference; other tools may have written anything.
        manifest: The image's manifest.
        resolved_digest: What the registry said the reference is: the manifest's digest, or that of the index in
            which it was found.
        stored_at: When the entry was written, RFC 3339 in UTC; "" when another tool wrote it.
        access: Who may use it; None when nobody pulled it, but somebody put it here.
    """

    name: str
    manifest: Descriptor
    resolved_digest: str
    stored_at: str = ""
    access: Access | None = None


class _RawIndex(msgspec.Struct):
    manifests: list[dict[str, Any]] = []


def decode(content: bytes) -> list[dict[str, Any]] | None:
    """The entries of an index.json; None when it is not one."""
    try:
        return msgspec.json.decode(content, type=_RawIndex).manifests
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def name_of(raw: dict[str, Any]) -> str:
    """The name of a raw entry; "" when it has none."""
    annotations = raw.get("annotations")
    name = annotations.get(REFERENCE_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def descriptor_of(raw: dict[str, Any]) -> Descriptor | None:
    """What a raw entry describes; None when that is no descriptor."""
    try:
        return msgspec.convert(raw, Descriptor)
    except msgspec.ValidationError:
        return None


def from_raw(raw: dict[str, Any]) -> Entry | None:
    """A raw entry; None for one without a name, and for an index."""
    name, manifest = name_of(raw), descriptor_of(raw)
    if not name or manifest is None or manifest.media_type in INDEX_TYPES:
        return None
    annotations = manifest.annotations or {}
    resolved = annotations.get(RESOLVED_DIGEST, manifest.digest)
    return Entry(
        name,
        msgspec.structs.replace(manifest, annotations=None),
        resolved if is_digest(resolved) else manifest.digest,
        annotations.get(STORED_AT, ""),
        _access(annotations.get(ACCESS)),
    )


def _access(text: str | None) -> Access | None:
    """A record that cannot be read admits nobody: whoever wants the image proves it again."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Access)
    except msgspec.DecodeError:
        return Access()


def to_raw(entry: Entry) -> dict[str, Any]:
    """An entry as it is written; one without a time was stored now."""
    annotations = {
        REFERENCE_NAME: entry.name,
        RESOLVED_DIGEST: entry.resolved_digest,
        STORED_AT: entry.stored_at or datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if entry.access is not None:
        annotations[ACCESS] = msgspec.json.encode(entry.access).decode()
    return {
        "mediaType": entry.manifest.media_type,
        "digest": entry.manifest.digest,
        "size": entry.manifest.size,
        "annotations": annotations,
    }
