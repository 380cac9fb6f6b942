"""hostPath volumes: a file or directory of the node, checked against the type that the pod asks for.

A socket or device cannot be given to a WASI guest, which can only open directories and regular files: refused.
Links on the way are followed, as the kubelet does: the path is the pod author's, and the pod gets its own engine.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.kube.types import HostPathVolume
from wasmlet.volumes.volume import HostVolume

__all__ = ["set_up"]

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644
"""What the kubelet gives to what DirectoryOrCreate and FileOrCreate make."""

KINDS = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "FileOrCreate": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket file"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


def set_up(source: HostPathVolume) -> HostVolume:
    """Check, or make, what the pod asks for.

    Raises:
        NotFoundError: Nothing is there and the type does not say to make it.
        UserError: It is something else, or something that no WASI guest can use.
    """
    path, kind = Path(source.path), source.type or ""
    if not path.is_absolute() or ".." in path.parts:
        raise UserError(f"hostPath {source.path!r} must be an absolute path without '..'")
    if kind not in ("", *KINDS):
        raise UserError(f"{kind} is an invalid volume type")
    _make_if_asked(path, kind)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"hostPath type check failed: {path} is not {KINDS[kind][1]}",
            hint="create it on the node, or use type DirectoryOrCreate or FileOrCreate",
        ) from None
    if kind and not KINDS[kind][0](mode):
        raise UserError(f"hostPath type check failed: {path} is not {KINDS[kind][1]}")
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise UserError(
            f"hostPath {path} cannot be given to a WebAssembly guest: WASI opens directories and regular files only",
            hint="mount a directory or a file instead of a socket, pipe or device",
        )
    return HostVolume(path=Path(os.path.realpath(path)), read_only=False, foreign=True)


def _make_if_asked(path: Path, kind: str) -> None:
    # Without a type the container runtime makes a missing directory; so do we.
    if kind in ("", "DirectoryOrCreate") and not os.path.lexists(path):
        path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    elif kind == "FileOrCreate" and not os.path.lexists(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
        except FileNotFoundError:
            raise NotFoundError(
                f"hostPath {path} cannot be made: its directory is missing", hint="FileOrCreate makes no directories"
            ) from None
