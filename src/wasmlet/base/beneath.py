"""The only module that follows paths below a directory that a guest can write.

A guest can plant `../../` links and swap names while the agent looks (design section 3). So every path here is two
things: `root`, a directory whose own path only the agent controls, and `relative`, which a guest may have made. The
kernel walks `relative` for us (openat2 with RESOLVE_BENEATH, no symlinks, no magic links); what is found is held by
a descriptor, never by a name that may be something else a moment later. Needs Linux 5.6.

All functions are short and synchronous, except `remove_tree`, which callers run in a thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import posixpath
import stat as stat_bits
from collections.abc import Iterator
from pathlib import Path

from wasmlet.base import removal
from wasmlet.base.errors import NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.base.files import write_all

__all__ = [
    "copy_file",
    "descriptor_path",
    "exists",
    "give_tree",
    "link_file",
    "locate",
    "make_directories",
    "open_directory",
    "open_file",
    "read_file",
    "relative_path",
    "remove_tree",
    "stat",
    "write_file",
]

OPENAT2 = 437
"""System call number, the same on x86_64 and aarch64 (include/uapi/asm-generic/unistd.h)."""

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
STRICT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
INSIDE = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS
"""Links are followed as long as they stay below the root: what Kubernetes promises for subPath."""

MAXIMUM_NAME_BYTES = 255
MAXIMUM_PATH_BYTES = 4096
"""NAME_MAX and PATH_MAX of Linux; Kubernetes' atomic writer holds payload paths to the same two."""

AGAIN_TRIES = 32
"""openat2 answers EAGAIN when a rename raced its walk (openat2(2)); a guest that races for ever gets an error."""

COPY_CHUNK_BYTES = 1 << 20


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _openat2(parent: int, relative: str, flags: int, resolve: int) -> int:
    """One openat2; returns a descriptor.

    Raises:
        OSError: As the kernel says.
        WasmletError: The kernel has no openat2.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    name = os.fsencode(relative)
    for _ in range(AGAIN_TRIES):
        result = _libc().syscall(
            ctypes.c_long(OPENAT2), ctypes.c_int(parent), ctypes.c_char_p(name), ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )  # fmt: skip
        if result >= 0:
            return int(result)
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            raise WasmletError(
                "this kernel has no openat2 system call",
                hint="wasmlet needs Linux 5.6 or newer, or a sandbox around it that allows openat2",
            )
        if number not in (errno.EAGAIN, errno.EINTR):
            raise OSError(number, os.strerror(number), relative)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), relative)


# --- names ------------------------------------------------------------------------------------------------------------


def relative_path(relative: str) -> str:
    """`relative`, checked and without empty and `.` parts; "" names the root itself.

    Raises:
        UserError: It is absolute, holds `..` or a NUL, or is too long.
    """
    if posixpath.isabs(relative):
        raise UserError(f"path {relative!r} must be relative", reason="UnsafePath")
    if "\0" in relative or len(os.fsencode(relative)) > MAXIMUM_PATH_BYTES:
        raise UserError(f"path {relative[:64]!r} holds a NUL or is longer than {MAXIMUM_PATH_BYTES} bytes")
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UserError(f"path {relative!r} must not contain '..'", reason="UnsafePath")
    if any(len(os.fsencode(part)) > MAXIMUM_NAME_BYTES for part in parts):
        raise UserError(f"path {relative[:64]!r} holds a name longer than {MAXIMUM_NAME_BYTES} bytes")
    return "/".join(parts)


# --- opening ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _translated(root: Path, relative: str) -> Iterator[None]:
    """Foreign errors into ours: absent, unsafe, racing; what is left (EACCES, ENOSPC) passes as OSError."""
    try:
        yield
    except OSError as error:
        where = f"{relative!r} below {root}"
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise NotFoundError(f"{where} does not exist") from error
        if error.errno in (errno.ELOOP, errno.EXDEV):
            raise UserError(f"{where} leads through a link, which is not followed", reason="UnsafePath") from error
        if error.errno == errno.EAGAIN:
            raise RetryableError(f"{where} keeps changing while it is opened") from error
        raise


@contextlib.contextmanager
def _root(root: Path) -> Iterator[int]:
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(root: Path, relative: str, flags: int, *, resolve: int = STRICT) -> int:
    relative = relative_path(relative)
    with _translated(root, relative), _root(root) as parent:
        return _openat2(parent, relative or ".", flags, resolve)


def descriptor_path(descriptor: int) -> Path:
    """The name under which this process can hand an open descriptor to a call that wants a path."""
    return Path(f"/proc/self/fd/{descriptor}")


def open_file(root: Path, relative: str, *, follow_inside: bool = False) -> int:
    """A read-only descriptor of a regular file; the caller closes it. Never blocks, whatever lies there.

    Args:
        follow_inside: Follow links that stay below `root` (subPath), instead of none.

    Raises:
        NotFoundError: Nothing is there.
        UserError: A link is on the way, or it is no regular file.
    """
    # A pipe opened for reading with O_NONBLOCK does not wait for a writer; O_NOCTTY for terminals.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = _open(root, relative, flags, resolve=INSIDE if follow_inside else STRICT)
    except OSError as error:
        if error.errno != errno.ENXIO:  # a socket
            raise
        raise UserError(f"{relative!r} below {root} is not a regular file") from error
    if not stat_bits.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{relative!r} below {root} is not a regular file")
    return descriptor


def open_directory(root: Path, relative: str = "", *, follow_inside: bool = False) -> int:
    """A readable descriptor of a directory; the caller closes it.

    Raises:
        NotFoundError: Nothing is there, or it is no directory.
        UserError: A link is on the way.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
    return _open(root, relative, flags, resolve=INSIDE if follow_inside else STRICT)


def read_file(root: Path, relative: str, *, limit_bytes: int, from_end: bool = False) -> bytes:
    """At most `limit_bytes` of a regular file: its beginning, or its end.

    To tell a file that is too big, ask for one byte more than is allowed.

    Raises:
        NotFoundError: Nothing is there.
        UserError: A link is on the way, or it is no regular file.
    """
    with open(open_file(root, relative), "rb", buffering=0) as stream:
        if from_end:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - limit_bytes))
        content = bytearray()
        while len(content) < limit_bytes and (chunk := stream.read(limit_bytes - len(content))):
            content += chunk
        return bytes(content)


def stat(root: Path, relative: str = "") -> os.stat_result | None:
    """What `relative` is, None when nothing is there; a link in last place is described itself.

    Raises:
        UserError: A link is on the way.
    """
    try:
        descriptor = _open(root, relative, os.O_PATH | os.O_NOFOLLOW)
    except NotFoundError:
        return None
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def exists(root: Path, relative: str = "") -> bool:
    """Whether anything, a link included, is there; False too when a link is on the way."""
    try:
        return stat(root, relative) is not None
    except UserError:
        return False


def locate(root: Path, relative: str) -> str:
    """The same place named without links, relative to `root`; links that stay below `root` are followed.

    A guest that writes there may change it afterwards, so open the answer with the functions of this module, or give
    it to what confines itself (an engine opens its directories under Landlock).

    Raises:
        NotFoundError: Nothing is there.
        UserError: A link leaves `root`.
    """
    descriptor = _open(root, relative, os.O_PATH, resolve=INSIDE)
    try:
        with _root(root) as base:
            start, found = (os.readlink(descriptor_path(number)) for number in (base, descriptor))
    finally:
        os.close(descriptor)
    if found == start:
        return ""
    if not found.startswith(start.rstrip("/") + "/"):  # moved away or deleted meanwhile
        raise NotFoundError(f"{relative!r} below {root} does not exist")
    return found[len(start.rstrip("/")) + 1 :]


# --- changing ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _parent(root: Path, relative: str) -> Iterator[tuple[int, str]]:
    """The directory that holds `relative`, and the last name."""
    head, name = posixpath.split(relative_path(relative))
    if not name:
        raise UserError(f"path {relative!r} names no file")
    descriptor = _open(root, head, os.O_PATH | os.O_DIRECTORY)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)


def _temporary() -> str:
    return f".wasmlet-{os.urandom(8).hex()}"


@contextlib.contextmanager
def _replacing(root: Path, relative: str, mode: int) -> Iterator[int]:
    """A new file's descriptor; it takes the place of `relative` by rename at the end, or on an error leaves nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with _parent(root, relative) as (parent, name):
        temporary = _temporary()
        try:
            descriptor = os.open(temporary, flags, 0o600, dir_fd=parent)
            try:
                yield descriptor
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
            raise


def write_file(root: Path, relative: str, content: bytes, *, mode: int = 0o644) -> None:
    """Put a regular file at `relative` by rename, with exactly `mode`; a link that lies there is replaced itself.

    Raises:
        NotFoundError: The directory for it is missing.
        UserError: A link is on the way.
        OSError: A directory lies there, or the disk is full; nothing is left behind.
    """
    with _replacing(root, relative, mode) as descriptor:
        write_all(descriptor, content)


def copy_file(source: int, root: Path, relative: str, *, mode: int = 0o644) -> None:
    """Copy what the descriptor `source` (of `open_file`) holds to `relative`; otherwise as `write_file`.

    Root's copy has the source's owner: who may read the one may read the other.
    """
    with _replacing(root, relative, mode) as descriptor:
        if os.geteuid() == 0:
            found = os.fstat(source)
            os.fchown(descriptor, found.st_uid, found.st_gid)
        while os.sendfile(descriptor, source, None, COPY_CHUNK_BYTES):
            pass


def link_file(source: int, root: Path, relative: str) -> None:
    """Make `relative` a further name of the file that the descriptor `source` holds: writes are seen on both sides.

    Raises:
        NotFoundError: The directory for it is missing.
        UserError: A link is on the way.
        OSError: EXDEV on another file system; EPERM when the kernel's protected_hardlinks forbids it.
    """
    with _parent(root, relative) as (parent, name):
        temporary = _temporary()
        os.link(descriptor_path(source), temporary, dst_dir_fd=parent, follow_symlinks=True)
        try:
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            # rename(2) does nothing when both names are the same file already.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)


def make_directories(root: Path, relative: str, *, mode: int = 0o755) -> None:
    """Make `relative` and every directory on the way that is missing; new ones get exactly `mode`.

    Raises:
        NotFoundError: Something on the way is no directory.
        UserError: A link is on the way.
    """
    relative = relative_path(relative)
    with _translated(root, relative), contextlib.ExitStack() as stack:
        current = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(lambda: os.close(current))
        for part in filter(None, relative.split("/")):
            made = False
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=current)
                made = True
            following = _openat2(current, part, os.O_RDONLY | os.O_DIRECTORY, STRICT)
            os.close(current)
            current = following
            if made:
                os.fchmod(current, mode)


def give_tree(root: Path, owner: int) -> None:
    """Make `owner` the owner of `root` and of everything in it; links are given themselves, and never followed.

    Raises:
        OSError: The file system does not know owners, or something cannot be entered.
    """
    for _, directories, files, descriptor in os.fwalk(root):
        os.fchown(descriptor, owner, -1)
        for name in (*files, *directories):
            os.chown(name, owner, -1, dir_fd=descriptor, follow_symlinks=False)


# --- removing ---------------------------------------------------------------------------------------------------------


def remove_tree(root: Path, relative: str = "") -> None:
    """Remove `relative`, or `root` itself, with everything in it. Nothing there is success. Never follows a link.

    Stays on one file system, so that a mount left behind costs an error and not its content.

    Raises:
        RetryableError: A guest goes on creating entries.
        OSError: An entry cannot be removed (a mount, EACCES).
    """
    anchor, path = (root, relative_path(relative)) if relative else (root.parent, root.name)
    try:
        with _parent(anchor, path) as (parent, name):
            removal.remove_entry(parent, name)
    except (NotFoundError, FileNotFoundError):
        return
