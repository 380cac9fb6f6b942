"""From a tree to a directory that a container can have: names are given to the contents, one component at a time.

The destination is new, empty and the agent's alone until a guest starts in it, and links are made, never followed.
A root that nobody may write shares the tree's files by hard links; a writable one has copies, which are reflinks where
the file system has them. Permission bits are wide: the directory around the container is closed, WASI shows a guest
no owner, and the user of its engine may be another than the agent's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from wasmlet.base.errors import RetryableError
from wasmlet.images.filesystem import Directory, File, Link, inside

COPY_BYTES: Final = 1 << 30
_NO_LINK: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK)
_NO_COPY: Final = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


class DamagedTreeError(RetryableError):
    """Something changed a tree after it was made: it is not used, and made again."""


def lay(root: Directory, files: Path, destination: Path, *, writable: bool) -> None:
    """Fill the empty directory `destination`.

    Args:
        files: The tree's numbered contents.
        writable: Whether a guest may change what it gets.

    Raises:
        DamagedTreeError: A content is not as it was made.
        OSError: The disk says no.
    """
    with contextlib.ExitStack() as stack:
        source, top = _opened(files), _opened(destination)
        stack.callback(os.close, source)
        stack.callback(os.close, top)
        _Laying(source, top, writable=writable).directory(root, top, "", 0)


class _Laying:
    def __init__(self, source: int, top: int, *, writable: bool) -> None:
        self._source, self._top, self._writable = source, top, writable
        self._named: dict[int, str] = {}

    def directory(self, directory: Directory, at: int, path: str, depth: int) -> None:
        for name, entry in directory.entries.items():
            if isinstance(entry, Directory):
                os.mkdir(name, 0o700, dir_fd=at)
                with _below(at, name) as below:
                    os.fchmod(below, 0o777 if self._writable else 0o755)
                    self.directory(entry, below, f"{path}{name}/", depth + 1)
            elif isinstance(entry, Link):
                os.symlink(inside(entry.target, depth), name, dir_fd=at)
            else:
                self._file(entry, at, name, path)

    def _file(self, file: File, at: int, name: str, path: str) -> None:
        first = self._named.setdefault(file.number, path + name)
        if first != path + name:
            # A second name in this root; the way to the first goes through directories that were made here.
            os.link(first, name, src_dir_fd=self._top, dst_dir_fd=at, follow_symlinks=False)
            return
        number = str(file.number)
        try:
            content = os.open(number, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._source)
        except FileNotFoundError as error:
            raise DamagedTreeError(f"the unpacked image has lost its {path}{name}") from error
        try:
            found = os.fstat(content)
            whole = stat.S_ISREG(found.st_mode) and found.st_size == file.size_bytes
            if not whole or found.st_mtime_ns != file.modified_ns:
                raise DamagedTreeError(f"the unpacked image has another {path}{name} than it was made with")
            if self._writable or not self._linked(number, at, name):
                self._copy(content, file, at, name)
        finally:
            os.close(content)

    def _linked(self, number: str, at: int, name: str) -> bool:
        try:
            os.link(number, name, src_dir_fd=self._source, dst_dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            return False
        return True

    def _copy(self, content: int, file: File, at: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        copy = os.open(name, flags, 0o600, dir_fd=at)
        try:
            _copy_content(content, copy)
            readable = 0o755 if file.executable else 0o644
            os.fchmod(copy, readable | 0o222 if self._writable else readable)
            os.utime(copy, ns=(file.modified_ns, file.modified_ns))
        finally:
            os.close(copy)


def _copy_content(source: int, destination: int) -> None:
    """By copy_file_range, which makes reflinks where it can."""
    try:
        while os.copy_file_range(source, destination, COPY_BYTES):
            pass
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
        while os.sendfile(destination, source, None, COPY_BYTES):
            pass


@contextlib.contextmanager
def _below(at: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
