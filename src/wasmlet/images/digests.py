"""The digests of files, remembered as long as the files stay what they are."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from wasmlet.base.errors import RetryableError
from wasmlet.base.flights import Flight, Flights
from wasmlet.images.threads import in_thread

READ_SIZE: Final = 4 << 20  # per hop to a thread: some 4 ms of hashing
MAX_REMEMBERED: Final = 4096


class Identity(NamedTuple):
    """What changes when a file changes."""

    path: Path
    device: int
    inode: int
    size_bytes: int
    modified_ns: int


class NotRegularError(ValueError):
    """A directory, a device or something else that has no digest."""


class Digests:
    """Remembers digests by file identity, for this process; a file is hashed once however many callers ask."""

    def __init__(self, open_file: Callable[[Path], int] | None = None) -> None:
        self._open = open_file or _open
        self._digests: dict[Identity, str] = {}
        self._hashing: Flights[Identity, str, None] = Flights("hashing")

    async def of(self, path: Path) -> tuple[str, int]:
        """The file's digest and its size in bytes.

        Raises:
            OSError: It cannot be opened or read.
            NotRegularError: It is not a regular file.
            RetryableError: It changes while it is read.
        """
        identity = await in_thread(self.identify, path)
        digest = self._digests.get(identity)
        if digest is None:
            digest = await self._hashing.join(identity, lambda flight: self._hash(identity, flight), label=str(path))
        return digest, identity.size_bytes

    def remembered(self, path: Path) -> str | None:
        """The file's digest, if it was hashed before and is what it was then. Blocks for one look at it.

        Raises:
            OSError: It cannot be opened.
            NotRegularError: It is not a regular file.
        """
        return self._digests.get(self.identify(path))

    def remember(self, identity: Identity, digest: str) -> None:
        """The file was hashed when it was written."""
        if len(self._digests) >= MAX_REMEMBERED:
            self._digests.pop(next(iter(self._digests)))
        self._digests[identity] = digest

    def identify(self, path: Path) -> Identity:
        """What the file is now; raises as `remembered`."""
        descriptor = self._open(path)
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegularError("a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        return Identity(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    async def close(self) -> None:
        """Stop hashing."""
        await self._hashing.close()

    async def _hash(self, identity: Identity, _: Flight[str, None]) -> str:
        digest = hashlib.sha256()
        descriptor = self._open(identity.path)  # Here, since a cancelled thread's descriptor would be lost.
        try:
            while await in_thread(_hash_some, descriptor, digest):
                pass
        finally:
            os.close(descriptor)
        if await in_thread(self.identify, identity.path) != identity:
            raise RetryableError(f"{identity.path} changes while it is read", hint="wait until it is written")
        found = f"sha256:{digest.hexdigest()}"
        self.remember(identity, found)
        return found


def _open(path: Path) -> int:
    # Not blocking, or a FIFO of that name would hold the thread for ever.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)


def _hash_some(descriptor: int, digest: hashlib._Hash) -> bool:
    content = os.read(descriptor, READ_SIZE)
    digest.update(content)
    return bool(content)
