"""A place inside a volume (`subPath`), found without leaving the volume."""

from __future__ import annotations

import posixpath

from wasmlet.base import beneath
from wasmlet.base.errors import NotFoundError
from wasmlet.volumes.volume import HostVolume

__all__ = ["resolve_sub_path"]

MODE = 0o755
"""Of directories made for a missing subPath; the kubelet takes the volume's own mode."""


def resolve_sub_path(volume: HostVolume, sub_path: str) -> str:
    """`sub_path` named without links, relative to the volume's directory; a missing one is made as a directory.

    Links are followed as long as they stay in the volume (the files of configMap volumes are links). A guest may
    change the place later: open it through `base.beneath`.

    Args:
        sub_path: Relative and without `..`, already expanded; "" is the volume itself.

    Raises:
        UserError: It is absolute, holds `..`, leads out of the volume, or through something that is no directory.
    """
    relative = beneath.relative_path(sub_path)
    try:
        return beneath.locate(volume.path, relative)
    except NotFoundError:
        existing, missing = _split_existing(volume, relative)
        made = posixpath.join(existing, missing)
        # The volume's own mode, so that whoever may write there may write here.
        status = beneath.stat(volume.path)
        beneath.make_directories(volume.path, made, mode=MODE if status is None else status.st_mode & 0o7777)
        return made


def _split_existing(volume: HostVolume, relative: str) -> tuple[str, str]:
    """The longest part that exists, named without links, and the rest."""
    parts = relative.split("/")
    for length in range(len(parts) - 1, 0, -1):
        try:
            existing = beneath.locate(volume.path, "/".join(parts[:length]))
        except NotFoundError:
            continue
        return existing, "/".join(parts[length:])
    return "", relative
