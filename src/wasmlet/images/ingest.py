"""One blob on its way into the store: bytes go into a locked temporary file and become a blob by a rename.

A temporary file is held with flock by its writer, so a sweeper knows without guessing whether the writer lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.manifest import Descriptor

_MOST_VECTORS: Final = 1024  # IOV_MAX of Linux
FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def translated(path: Path, act: str) -> Iterator[None]:
    """Turns an `OSError` below `path` into an error that says what to do.

    Raises:
        RetryableError: The disk is full, or it failed in another way that may pass.
        UserError: The directory may not be used.
    """
    try:
        yield
    except OSError as error:
        message = f"cannot {act} the image store {path}: {error.strerror or error}"
        if error.errno in FULL:
            raise RetryableError(message, hint="free some space, or remove images that are not used") from error
        if error.errno in _FORBIDDEN:
            raise UserError(message, hint="check the directory's owner and mode, or choose another one") from error
        raise RetryableError(message) from error


class Ingest:
    """A temporary file that takes bytes and hashes them. Its methods block: call them in a thread, one at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path, self._descriptor = _create_locked(directory)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def digest(self) -> str:
        """Of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append all of them.

        Raises:
            RetryableError: The disk is full.
        """
        with translated(self._directory.parent, "write to"):
            _write(self._descriptor, chunks)
        for chunk in chunks:
            self._hash.update(chunk)
            self.size_bytes += len(chunk)

    def restart(self) -> None:
        """Forget what was written, for another attempt."""
        with translated(self._directory.parent, "write to"):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def commit(self, expected: Descriptor, destination: Path) -> None:
        """Give the file its name, if it is what was expected. Idempotent for the store: equal content replaces itself.

        Raises:
            RetryableError: Length or digest differ: the registry or the line damaged it, or the disk failed.
        """
        if self.size_bytes != expected.size or self.digest != expected.digest:
            raise RetryableError(
                f"blob {expected.digest} ({expected.size} bytes) came as {self.digest} ({self.size_bytes} bytes)",
                hint="the registry, or something on the way, changed it",
            )
        with translated(self._directory.parent, "write to"):
            destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.rename(self._path, destination)
        self.close()

    def close(self) -> None:
        """Remove the temporary file unless it was committed. Idempotent."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(self._descriptor)
        self._descriptor = -1


def sweep(directory: Path) -> int:
    """Remove temporary files whose writers are dead; the number removed."""
    removed = 0
    for path in directory.iterdir():
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
            removed += 1
        except OSError:
            continue  # A live writer holds it, or renamed it just now.
        finally:
            os.close(descriptor)
    return removed


def _write(descriptor: int, chunks: Sequence[bytes]) -> None:
    """In as few calls as it takes: the kernel gives large writes large pages."""
    for first in range(0, len(chunks), _MOST_VECTORS):
        batch = chunks[first : first + _MOST_VECTORS]
        written = os.writev(descriptor, batch)
        if written < sum(map(len, batch)):  # A full disk takes a part, and says so at the next call.
            rest = memoryview(b"".join(batch))[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]


def _create_locked(directory: Path) -> tuple[Path, int]:
    with translated(directory.parent, "write to"):
        while True:
            path = directory / os.urandom(8).hex()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return path, descriptor
            except BlockingIOError:
                pass  # A sweeper took the new file for an orphan; it removes it.
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)
