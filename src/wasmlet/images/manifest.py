"""Manifests and indexes of the OCI image specification 1.1, as msgspec Structs: bytes in, checked values out.

Everything here comes from a registry and is not trusted. A digest that got past this module is `sha256:` and 64 hex
digits, so it can become a file's name.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from wasmlet.base.errors import UserError
from wasmlet.images.reference import is_digest

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES: Final = (OCI_INDEX, DOCKER_INDEX)
MAX_MANIFEST_BYTES: Final = 4 << 20  # distribution-spec, "Pushing Manifests": registries take at least this much
MAX_SHOWN_TYPES: Final = 12  # media types named in one error

TITLE: Final = "org.opencontainers.image.title"


class Platform(msgspec.Struct, frozen=True, gc=False):
    """What an entry of an index runs on."""

    architecture: str = ""
    os: str = ""

    def __str__(self) -> str:
        return f"{self.os or '?'}/{self.architecture or '?'}"


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A blob: what it is, its digest, its length in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    artifact_type: str | None = None

    def __post_init__(self) -> None:
        if not is_digest(self.digest):
            raise ValueError("a digest must be sha256: and 64 lower-case hex digits")
        if self.size < 0:
            raise ValueError("a size must not be negative")


class Manifest(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An image: a configuration and layers."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Images of one name, for different platforms."""

    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


def digest_of(content: bytes) -> str:
    """The sha256 digest of a small content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def media_type_of(content: bytes, declared: str) -> str:
    """The media type of a manifest: what it says itself, or else what the registry `declared`.

    Raises:
        UserError: Not a JSON object, or both an image and an index, which tools would read differently.
    """
    try:
        document: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError("the manifest is not JSON") from error
    if not isinstance(document, dict):
        raise UserError("the manifest is not a JSON object")
    if "manifests" in document and ("layers" in document or "config" in document):
        raise UserError("the manifest is an image and an index at once")
    own = document.get("mediaType")
    if isinstance(own, str) and own:
        return own
    named = declared.partition(";")[0].strip().lower()
    if named in (*MANIFEST_TYPES, *INDEX_TYPES):
        return named
    if document.get("schemaVersion") == 2:
        return OCI_INDEX if "manifests" in document else OCI_MANIFEST
    return named or "unknown"


def parse(content: bytes, declared: str) -> Manifest | Index:
    """The manifest or index in `content`.

    Args:
        declared: The media type that the registry or a descriptor names.

    Raises:
        UserError: Another kind of document (the message names it), or a broken one.
    """
    media_type = media_type_of(content, declared)
    if media_type not in (*MANIFEST_TYPES, *INDEX_TYPES):
        raise UserError(
            f"the manifest is of type {shown(media_type)}",
            hint=f"wasmlet reads {OCI_MANIFEST}, {OCI_INDEX} and their docker twins",
        )
    try:
        if media_type in INDEX_TYPES:
            return msgspec.json.decode(content, type=Index)
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"the manifest is broken: {shown(str(error))}") from error


def shown(text: str) -> str:
    """Foreign text made safe for a message: printable, at most 256 characters."""
    printable = "".join(character if character.isprintable() else "?" for character in text[:256])
    return printable + ("…" if len(text) > 256 else "")


def shown_list(texts: list[str]) -> str:
    """Foreign words for a message: each once, a bounded number of them."""
    words = list(dict.fromkeys(shown(text) for text in texts))
    more = f" and {len(words) - MAX_SHOWN_TYPES} more" if len(words) > MAX_SHOWN_TYPES else ""
    return (", ".join(words[:MAX_SHOWN_TYPES]) or "none") + more
