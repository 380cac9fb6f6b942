"""What a container sees: its root directory, and the list of directories that the engine opens for it.

WASI opens directories only, Kubernetes mounts files too. So single files (`/etc/hosts`, the termination log, one key
by subPath) are placed into directories that belong to this attempt alone:

    {attempt}/root/          "/" of the container: the image's tree, or empty; single files placed in it
    {attempt}/termination/   only with readOnlyRootFilesystem: the termination log's directory, writable

What cannot be the same as with bind mounts:

- A file of a writable mount is hard linked, so writes show on both sides as long as both keep the same file; a file
  of a read-only mount is a copy of the container's start.
- No file can be placed into a directory that is a volume. The agent's own files are left out there (`left_out`), the
  termination log is made inside a writable volume; a pod's own file mount inside another mount is refused.
- With readOnlyRootFilesystem, the log's directory (`/dev`) is a writable directory of its own, which hides what the
  image has there. A log directly in "/" is left out.

Directories made here are open to all users: the attempt's directory must be closed to others, which is the caller's
part (design section 3).
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wasmlet.base import beneath
from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.volumes.sub_path import resolve_sub_path
from wasmlet.volumes.volume import HostVolume

__all__ = [
    "ContainerMount",
    "ContainerRoot",
    "GuestMount",
    "RootFile",
    "TerminationFile",
    "build_root",
    "read_termination_message",
]

ROOT = "root"
TERMINATION = "termination"
TERMINATION_MODE = 0o666
TERMINATION_MESSAGE_BYTES = 4096
"""Contract 4.4; the kubelet keeps the end of a longer file."""

OPEN_MODE = 0o777


@dataclass(frozen=True)
class GuestMount:
    """One volumeMount: a volume, or a place in it, at a path of the guest.

    Attributes:
        guest_path: mountPath; a relative one counts from "/".
        volume: What `mount.set_up` returned.
        sub_path: subPath, expanded; "" is the whole volume.
        read_only: The mount's own readOnly; the volume's counts too.
    """

    guest_path: str
    volume: HostVolume
    sub_path: str = ""
    read_only: bool = False


@dataclass(frozen=True)
class RootFile:
    """A file that the agent writes: content (kept out of `repr`) and permission bits."""

    content: bytes = field(repr=False)
    mode: int = 0o644


@dataclass(frozen=True)
class ContainerMount:
    """A host directory that the engine opens for the guest under `guest_path`.

    Attributes:
        sub_path: Of `host_path`, the part that lies in a volume, where guests can put links; "" when no part does.
    """

    host_path: Path
    guest_path: str
    read_only: bool
    sub_path: str = ""

    @property
    def root(self) -> Path:
        """What lies before `sub_path`: no guest can put a link for it."""
        return self.host_path.parents[self.sub_path.count("/")] if self.sub_path else self.host_path


@dataclass(frozen=True)
class TerminationFile:
    """Where the guest's termination message lies: `relative` below `root`, which the guest can write."""

    root: Path
    relative: str


@dataclass(frozen=True)
class ContainerRoot:
    """A container's file system, ready.

    Attributes:
        mounts: In order: "/" first, then by guest path, so that a mount inside another comes after it.
        termination: None when the log cannot be placed.
        left_out: Guest paths of the agent's files that were not placed: inside a volume, or behind an image's link.
    """

    mounts: tuple[ContainerMount, ...]
    termination: TerminationFile | None
    left_out: tuple[str, ...]


def build_root(
    attempt: Path,
    *,
    mounts: Sequence[GuestMount] = (),
    files: Mapping[str, RootFile] | None = None,
    directories: Sequence[str] = (),
    termination_path: str | None = None,
    read_only: bool = False,
) -> ContainerRoot:
    """Build what one attempt of a container sees. May be repeated: files are replaced, the termination log emptied.

    Args:
        attempt: The attempt's own directory, which exists; `root` in it may hold the image's tree already.
        mounts: The container's volumeMounts. A volume at "/" replaces the root directory.
        files: Guest path → file of the agent (`/etc/hosts`, …); a mount at the same path wins.
        directories: Guest paths to make when missing (the working directory).
        termination_path: terminationMessagePath; None for no log.
        read_only: readOnlyRootFilesystem.

    Raises:
        UserError: Two mounts at one path, a subPath that leaves its volume, a file mount inside another mount, a
            writable file on another file system, or an image whose own links are in the way.
        OSError: The disk says no.
    """
    (attempt / ROOT).mkdir(exist_ok=True)
    (attempt / ROOT).chmod(OPEN_MODE)
    layout = _Layout(attempt, read_only=read_only)
    file_mounts = layout.add_mounts(mounts)
    taken = file_mounts.keys() | layout.mounts.keys()
    termination = None if termination_path is None else _normal(termination_path)
    if termination in taken:
        termination = None
    if termination is not None:
        layout.make_room_for(termination)
    left_out = layout.place_all(
        {path: file for path, file in _normal_keys(files or {}) if path not in taken}, file_mounts
    )
    for guest_path in (*layout.mounts, *map(_normal, directories)):
        layout.place_directory(guest_path)
    ordered = sorted(layout.mounts.values(), key=lambda mount: mount.guest_path.split("/"))
    return ContainerRoot(
        mounts=tuple(sorted(ordered, key=lambda mount: mount.guest_path != "/")),
        termination=None if termination is None else layout.place_termination(termination),
        left_out=tuple(left_out),
    )


def read_termination_message(file: TerminationFile, *, limit_bytes: int = TERMINATION_MESSAGE_BYTES) -> str:
    """The end of what the guest wrote, at most `limit_bytes`; "" when it wrote nothing or removed the file.

    What cannot be read (a link, a pipe) is told in the message itself, as the kubelet does. Falling back to the log
    is the caller's part.
    """
    try:
        content = beneath.read_file(file.root, file.relative, limit_bytes=limit_bytes, from_end=True)
    except NotFoundError:
        return ""
    except (UserError, OSError) as error:
        return f"Error on reading termination log {file.relative}: {error}"
    return content.decode(errors="replace")


# --- layout -----------------------------------------------------------------------------------------------------------


class _Layout:
    """Which host directory stands behind which guest path, while a root is built."""

    def __init__(self, attempt: Path, *, read_only: bool) -> None:
        self.attempt = attempt
        self.mounts = {"/": ContainerMount(attempt / ROOT, "/", read_only)}
        self.foreign: set[str] = set()
        """Guest paths whose directories are other people's: the agent writes nothing of its own there."""
        self.own = {"/"}
        """Guest paths whose directories belong to the attempt: files may be placed there."""
        self.made: set[tuple[Path, str]] = set()
        """Directories of the attempt that this build has made; no guest of it runs yet that could remove one."""

    def add_mounts(self, mounts: Sequence[GuestMount]) -> dict[str, GuestMount]:
        """Take in directory mounts; returns the file mounts, with their places in the volume named without links."""
        file_mounts: dict[str, GuestMount] = {}
        seen: set[str] = set()
        for mount in mounts:
            guest_path = _normal(mount.guest_path)
            if guest_path in seen:
                raise UserError(f"two volumes are mounted at {guest_path}", hint="give each its own mountPath")
            seen.add(guest_path)
            found, is_directory = _resolved(mount)
            if is_directory:
                host_path = found.volume.path / found.sub_path
                self.mounts[guest_path] = ContainerMount(host_path, guest_path, found.read_only, found.sub_path)
                if found.volume.foreign:
                    self.foreign.add(guest_path)
                self.own.discard(guest_path)
            elif guest_path == "/":
                raise UserError("a file cannot be mounted at /")
            else:
                file_mounts[guest_path] = found
        return file_mounts

    def cover(self, guest_path: str) -> ContainerMount:
        """The mount that a path lies in."""
        while guest_path not in self.mounts:
            guest_path = posixpath.dirname(guest_path)
        return self.mounts[guest_path]

    def make_room_for(self, termination: str) -> None:
        """On a read-only root, a writable directory for the log."""
        parent = posixpath.dirname(termination)
        if self.cover(termination).guest_path == "/" and "/" in self.own and self.mounts["/"].read_only:
            if parent == "/":
                return
            host_path = self.attempt / TERMINATION
            host_path.mkdir(exist_ok=True)
            host_path.chmod(OPEN_MODE)
            self.mounts[parent] = ContainerMount(host_path, parent, read_only=False)
            self.own.add(parent)

    def place_all(self, files: Mapping[str, RootFile], file_mounts: Mapping[str, GuestMount]) -> list[str]:
        """Place the agent's files and the pod's; returns the paths of the agent's that have no place."""
        left_out = []
        for guest_path, file in files.items():
            try:
                if self.cover(guest_path).guest_path not in self.own:
                    raise UserError(f"{guest_path} lies in a volume")
                root, relative = self._prepared(guest_path)
                beneath.write_file(root, relative, file.content, mode=file.mode)
            except UserError:
                left_out.append(guest_path)
        for guest_path, mount in file_mounts.items():
            cover = self.cover(guest_path)
            if cover.guest_path not in self.own:
                raise UserError(
                    f"a file cannot be mounted at {guest_path}, inside the volume mounted at {cover.guest_path}",
                    hint="mount the file outside of it, or put it into that volume (a projected volume holds both)",
                )
            _place_mounted(mount, *self._prepared(guest_path))
        return left_out

    def place_termination(self, guest_path: str) -> TerminationFile | None:
        """An empty log, writable by all; None where nothing can be written."""
        cover = self.cover(guest_path)
        if cover.read_only or cover.guest_path in self.foreign:
            return None
        try:
            root, relative = self._prepared(guest_path)
            beneath.write_file(root, relative, b"", mode=TERMINATION_MODE)
        except UserError:
            return None
        return TerminationFile(root, relative)

    def place_directory(self, guest_path: str) -> None:
        """An empty directory, so that the guest sees the name in a listing; inside volumes nothing is made."""
        parent = posixpath.dirname(guest_path)
        cover = self.cover(parent)
        if guest_path == "/" or cover.guest_path not in self.own:
            return
        relative = posixpath.relpath(guest_path, cover.guest_path)
        # Where the image has a link or a file on the way, guests find a mount by its path all the same.
        with contextlib.suppress(UserError):
            if not beneath.exists(cover.host_path, relative):
                beneath.make_directories(cover.host_path, relative, mode=OPEN_MODE)

    def _prepared(self, guest_path: str) -> tuple[Path, str]:
        """Host directory and relative path for a file, its directories made."""
        cover = self.cover(guest_path)
        relative = posixpath.relpath(guest_path, cover.guest_path)
        directory = cover.host_path, posixpath.dirname(relative)
        if directory not in self.made:
            beneath.make_directories(*directory, mode=OPEN_MODE)
            self.made.add(directory)
        return cover.host_path, relative


def _resolved(mount: GuestMount) -> tuple[GuestMount, bool]:
    """The mount with its place named without links and all reasons for read-only joined; and whether a directory."""
    volume, read_only = mount.volume, mount.read_only or mount.volume.read_only
    if not volume.path.is_dir() and not mount.sub_path:  # a hostPath of a file
        volume, place = replace(volume, path=volume.path.parent), volume.path.name
    else:
        place = resolve_sub_path(volume, mount.sub_path)
    status = beneath.stat(volume.path, place)
    if status is None or not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise UserError(
            f"what is to be mounted at {mount.guest_path} is neither a directory nor a regular file",
            hint="WASI gives guests only those",
        )
    found = GuestMount(mount.guest_path, volume, place, read_only)
    return found, stat.S_ISDIR(status.st_mode)


def _place_mounted(mount: GuestMount, root: Path, relative: str) -> None:
    source = beneath.open_file(mount.volume.path, mount.sub_path)
    try:
        if mount.read_only:
            beneath.copy_file(source, root, relative, mode=os.fstat(source).st_mode & 0o777)
        else:
            beneath.link_file(source, root, relative)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        raise UserError(
            f"the file at {mount.guest_path} cannot be mounted writable: it cannot be hard linked ({error.strerror})",
            hint="set readOnly: true, or mount its directory",
        ) from error
    finally:
        os.close(source)


def _normal(guest_path: str) -> str:
    """An absolute guest path without `.`, `..` and doubled slashes."""
    if "\0" in guest_path:
        raise UserError(f"path {guest_path!r} holds a NUL")
    return posixpath.normpath("/" + guest_path.lstrip("/"))


def _normal_keys(files: Mapping[str, RootFile]) -> Iterator[tuple[str, RootFile]]:
    return ((_normal(path), file) for path, file in files.items())
