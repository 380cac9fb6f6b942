"""Payloads on disk, updated so that a reader sees the old content or the new, never a mixture and never a gap.

The layout is the kubelet's AtomicWriter, which programs rely on (they watch `..data`):

    ..2026_02_01_15_04_05.12345678/   the real files
    ..data                            → that directory; swapped by renaming ..data_tmp over it
    name                              → ..data/name, for each top-level name

These volumes are read-only in every container, so nothing here was written by a guest and ordinary calls are safe.
What a killed agent left half done is put right by the next write.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from wasmlet.base import beneath
from wasmlet.base.errors import UserError

__all__ = ["DEFAULT_MODE", "Payload", "PayloadFile", "write"]

DATA = "..data"
NEXT_DATA = "..data_tmp"
DEFAULT_MODE = 0o644
"""defaultMode of the API."""

GROUP_FILE_BITS = 0o440
"""What fsGroup adds to a file of a read-only volume (kubelet, SetVolumeOwnership)."""

OWNER_FILE_BITS = 0o400
"""For a mode such as 0: an ordinary user's agent compares with what it wrote, and its engines open it as that user."""


@dataclass(frozen=True)
class PayloadFile:
    """One file to be: its bytes (kept out of `repr`, they may be secret) and its permission bits."""

    content: bytes = field(repr=False)
    mode: int = DEFAULT_MODE


Payload = Mapping[str, PayloadFile]
"""Relative path → file."""


def write(directory: Path, payload: Payload, *, group: int | None = None) -> bool:
    """Make the volume at `directory`, which exists, show exactly `payload`.

    Args:
        group: The group that owns the files and may read them; None leaves owner and modes alone.

    Returns:
        Whether anything was written: False when names, contents and modes are equal already.

    Raises:
        UserError: A path is absolute, holds `..`, starts with `..`, is too long, or is a directory of another.
    """
    wanted = {path: _readable(file, group) for path, file in _checked(payload).items()}
    current = _current(directory)
    changed = current is None or _read(directory / current) != {
        path: (file.mode, file.content) for path, file in wanted.items()
    }
    if changed:
        current = _write_version(directory, wanted, group)
        _flip(directory, current)
    _match_links(directory, {path.partition("/")[0] for path in wanted})
    _remove_other_versions(directory, current)
    return changed


def _readable(file: PayloadFile, group: int | None) -> PayloadFile:
    """The file with the bits without which the group, or an agent that is not root, could not read it again."""
    bits = (0 if group is None else GROUP_FILE_BITS) | (0 if os.geteuid() == 0 else OWNER_FILE_BITS)
    return PayloadFile(file.content, file.mode | bits)


def _checked(payload: Payload) -> dict[str, PayloadFile]:
    """The payload under cleaned paths; messages as the kubelet's validatePath."""
    cleaned: dict[str, PayloadFile] = {}
    for path, file in payload.items():
        if not path:
            raise UserError('invalid path: must not be empty: ""')
        if path.startswith("/"):
            raise UserError(f"invalid path: must be relative path: {path}")
        if ".." in path.split("/"):
            raise UserError(f"invalid path: must not contain '..': {path}")
        if path.startswith(".."):
            raise UserError(f"invalid path: must not start with '..': {path}")
        cleaned[beneath.relative_path(path)] = file
    for path in cleaned:
        parts = path.split("/")
        parents = {"/".join(parts[:length]) for length in range(1, len(parts))}
        if clash := parents & cleaned.keys():
            raise UserError(f"invalid path: {clash.pop()} is a file and the directory of {path}")
    if "" in cleaned:
        raise UserError("invalid path: names no file")
    return cleaned


def _current(directory: Path) -> str | None:
    """The name of the directory that `..data` leads to."""
    try:
        name = os.readlink(directory / DATA)
    except FileNotFoundError:
        return None
    return name if (directory / name).is_dir() else None


def _read(version: Path) -> dict[str, tuple[int, bytes]]:
    """Path → (permission bits, content) of every file in one version."""
    files = (path for path in version.rglob("*") if path.is_file())
    return {path.relative_to(version).as_posix(): (path.stat().st_mode & 0o7777, path.read_bytes()) for path in files}


def _write_version(directory: Path, payload: Payload, group: int | None) -> str:
    """A new timestamped directory with the payload; returns its name."""
    stamp = datetime.now(UTC).strftime("..%Y_%m_%d_%H_%M_%S.")
    version = Path(tempfile.mkdtemp(prefix=stamp, dir=directory))
    directories = {version}
    for path, file in payload.items():
        target = version / path
        target.parent.mkdir(parents=True, exist_ok=True)
        directories.update(version / parent for parent in Path(path).parents)
        target.write_bytes(file.content)
        if group is not None:
            os.chown(target, -1, group)
        os.chmod(target, file.mode)
    for made in directories:
        if group is not None:
            os.chown(made, -1, group)
        os.chmod(made, 0o755 if group is None else 0o2750)
    return version.name


def _flip(directory: Path, version: str) -> None:
    """The one moment at which readers move to the new version."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(directory / NEXT_DATA)
    os.symlink(version, directory / NEXT_DATA)
    os.rename(directory / NEXT_DATA, directory / DATA)


def _match_links(directory: Path, wanted: set[str]) -> None:
    """Links for names that came, none for names that went. What is no link of ours (a subPath's directory) stays."""
    present = {name for name in os.listdir(directory) if not name.startswith("..")}
    for name in wanted - present:
        os.symlink(f"{DATA}/{name}", directory / name)
    for name in present - wanted:
        if (directory / name).is_symlink():
            os.unlink(directory / name)


def _remove_other_versions(directory: Path, current: str | None) -> None:
    for name in os.listdir(directory):
        if name.startswith("..") and name not in (DATA, current):
            beneath.remove_tree(directory, name)
