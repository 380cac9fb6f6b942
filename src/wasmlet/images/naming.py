"""Which images of a store a word on the command line names: by reference, or by ID as podman has it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from wasmlet.base.errors import ConflictError, NotFoundError, UserError
from wasmlet.images.image import StoredImage
from wasmlet.images.manifest import shown, shown_list
from wasmlet.images.reference import parse_remote

_ID: Final = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")
_ALGORITHM: Final = "sha256:"


def named(images: Sequence[StoredImage], word: str, *, every: bool = False) -> list[StoredImage]:
    """The image with that reference; else those with that ID: a digest of `wasmlet images`, or how it begins (4 digits
    at least, with or without `sha256:`), or `REPOSITORY@DIGEST`.

    Args:
        every: An ID may stand for several references.

    Raises:
        NotFoundError: There is none.
        ConflictError: The ID is that of several references, or begins those of several images.
        UserError: It is neither a reference nor an ID.
    """
    own = _by_reference(images, word)
    if own is not None:
        return [own]
    found = _by_id(images, word)
    if not found:
        name = shown(word) if _ID.fullmatch(word) else str(parse_remote(word))
        raise NotFoundError(f"image {name} is not in the store", hint="`wasmlet images` lists what is")
    digests = {each.digest for each in found}
    if len(digests) > 1:
        raise ConflictError(f"{shown(word)} begins the IDs of {len(digests)} images", hint="give more of it")
    if len(found) > 1 and not every:
        names = shown_list([each.reference for each in found])
        raise ConflictError(
            f"image {shown(word)} has {len(found)} references: {names}", hint="name them, or use --force"
        )
    return found


def _by_reference(images: Sequence[StoredImage], word: str) -> StoredImage | None:
    try:
        name = str(parse_remote(word))
    except UserError:
        name = word  # as another tool has written it, or an ID
    return next((each for each in images if each.reference == name), None)


def _by_id(images: Sequence[StoredImage], word: str) -> list[StoredImage]:
    found = _ID.fullmatch(word)
    if found is not None:
        return [each for each in images if each.digest.removeprefix(_ALGORITHM).startswith(found[1])]
    try:
        reference = parse_remote(word)
    except UserError:
        return []
    if reference.digest is None:
        return []
    wanted = f"{reference.name}@{reference.digest}"
    return [each for each in images if each.image_id == wanted]
