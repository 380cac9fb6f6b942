"""Modules on this machine, used where they lie: the digest is that of their content."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.base.flights import Flight, Flights
from wasmlet.images.reference import LocalFile
from wasmlet.images.threads import in_thread

READ_SIZE: Final = 4 << 20  # per hop to a thread: some 4 ms of hashing
MAX_REMEMBERED: Final = 1024
_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)


class Identity(NamedTuple):
    """What changes when a file changes."""

    path: Path
    device: int
    inode: int
    size_bytes: int
    modified_ns: int


class LocalFiles:
    """Remembers digests by file identity; a file is hashed once however many callers ask."""

    def __init__(self) -> None:
        self._digests: dict[Identity, str] = {}
        self._hashing: Flights[Identity, str, None] = Flights("hashing")

    async def digest(self, file: LocalFile) -> tuple[str, int]:
        """The file's digest and its size in bytes.

        Raises:
            NotFoundError: There is no such file.
            UserError: It is a directory or something else, or it may not be read.
            RetryableError: It changes while it is read.
        """
        identity = await in_thread(_identify, file.path)
        digest = self._digests.get(identity)
        if digest is None:
            digest = await self._hashing.join(identity, lambda flight: self._hash(identity, flight), label=str(file))
        return digest, identity.size_bytes

    async def close(self) -> None:
        """Stop hashing."""
        await self._hashing.close()

    async def _hash(self, identity: Identity, _: Flight[str, None]) -> str:
        digest = hashlib.sha256()
        descriptor = _open(identity.path)  # Here, since a cancelled thread's descriptor would be lost.
        try:
            while await in_thread(_hash_some, descriptor, digest):
                pass
        finally:
            os.close(descriptor)
        if await in_thread(_identify, identity.path) != identity:
            raise RetryableError(f"{identity.path} changes while it is read", hint="wait until it is written")
        if len(self._digests) >= MAX_REMEMBERED:
            self._digests.pop(next(iter(self._digests)))
        self._digests[identity] = f"sha256:{digest.hexdigest()}"
        return self._digests[identity]


def _identify(path: Path) -> Identity:
    descriptor = _open(path)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise UserError(f"module {path} is {kind}", hint="name the .wasm file itself")
    return Identity(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _open(path: Path) -> int:
    try:
        # Not blocking, or a FIFO of that name would hold the thread for ever.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _ABSENT:
            raise NotFoundError(f"module {path} does not exist", hint="check the path after file:") from error
        raise UserError(f"cannot read module {path}: {error.strerror}") from error


def _hash_some(descriptor: int, digest: hashlib._Hash) -> bool:
    content = os.read(descriptor, READ_SIZE)
    digest.update(content)
    return bool(content)
