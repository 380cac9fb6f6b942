"""Removing a tree that a guest may still be writing: the inner part of `beneath.remove_tree`, by descriptors only.

Every step names one entry of an open directory and never follows a link, so swapped names cost at most another pass.
A directory that is not empty is moved up to the top before it is emptied: however deep the tree, three descriptors
are enough, and no path gets too long.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from wasmlet.base.errors import RetryableError

__all__ = ["remove_entry"]

PASSES = 100
"""How often to start over while a guest goes on creating entries."""


def remove_entry(parent: int, name: str) -> None:
    """Remove the entry `name` of the directory that the descriptor `parent` holds, with everything in it.

    Raises:
        FileNotFoundError: It is not there.
        RetryableError: A guest goes on creating entries.
        OSError: An entry cannot be removed (EBUSY: a mount; EACCES, EPERM: not ours).
    """
    for _ in range(PASSES):
        if _unlinked(parent, name):
            return
        with contextlib.suppress(NotADirectoryError):  # swapped just now
            top = _opened(parent, name)
            try:
                _stay(top, parent, name)
                _empty(top)
            finally:
                os.close(top)
    raise RetryableError("a directory keeps filling while it is removed", hint="stop what still writes there")


def _empty(top: int) -> None:
    """One pass: remove all entries, and what is moved up meanwhile."""
    entries = os.listdir(top)
    while entries:
        entry = entries.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not _unlinked(top, entry):
                entries += _flatten(top, entry)


def _flatten(top: int, entry: str) -> list[str]:
    """Remove the directory `entry` of `top`; directories in it that hold something move to `top`. Returns those."""
    moved = []
    directory = _opened(top, entry)
    try:
        _stay(directory, top, entry)
        for child in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):
                if _unlinked(directory, child):
                    continue
                with contextlib.suppress(NotADirectoryError):
                    # Moving a directory changes its "..": it must be writable itself.
                    os.close(_opened(directory, child))
                fresh = f".wasmlet-{os.urandom(8).hex()}"
                os.rename(child, fresh, src_dir_fd=directory, dst_dir_fd=top)
                moved.append(fresh)
    finally:
        os.close(directory)
    _unlinked(top, entry)  # refilled meanwhile: the next pass meets it again
    return moved


def _stay(directory: int, parent: int, name: str) -> None:
    if os.fstat(directory).st_dev != os.fstat(parent).st_dev:
        raise OSError(errno.EBUSY, "a file system is mounted there; unmount it first", name)


def _unlinked(parent: int, name: str) -> bool:
    """Remove a file, link or empty directory; False when it is a directory that holds something."""
    try:
        os.unlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EPERM, errno.EACCES):
            raise
        refused = error
    else:
        return True
    try:
        os.rmdir(name, dir_fd=parent)
    except NotADirectoryError:
        if refused.errno != errno.EISDIR:
            raise refused from None
        return False  # a directory a moment ago: the next pass meets what it is now
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
            raise
        if error.errno == errno.EACCES and not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            raise refused from None  # the directory that holds it is not ours
        return False
    return True


def _opened(parent: int, name: str) -> int:
    """Open a directory, giving ourselves its permissions first where an image left it closed.

    Raises:
        NotADirectoryError: It is a file or a link.
    """
    held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = os.fstat(held).st_mode
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
        if mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{held}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)
    finally:
        os.close(held)
