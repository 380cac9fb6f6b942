"""Modules on this machine, used where they lie: the digest is that of their content."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.images.digests import Digests, NotRegularError
from wasmlet.images.reference import LocalFile

_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)


class LocalFiles:
    """The digests of local files; a file is hashed again when it changed."""

    def __init__(self) -> None:
        self._digests = Digests(_open)

    async def digest(self, file: LocalFile) -> tuple[str, int]:
        """The file's digest and its size in bytes.

        Raises:
            NotFoundError: There is no such file.
            UserError: It is a directory or something else, or it may not be read.
            RetryableError: It changes while it is read.
        """
        try:
            return await self._digests.of(file.path)
        except NotRegularError as error:
            raise UserError(f"module {file.path} is {error}", hint="name the .wasm file itself") from error

    async def close(self) -> None:
        """Stop hashing."""
        await self._digests.close()


def _open(path: Path) -> int:
    try:
        # Not blocking, or a FIFO of that name would hold the thread for ever.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _ABSENT:
            raise NotFoundError(f"module {path} does not exist", hint="check the path after file:") from error
        raise UserError(f"cannot read module {path}: {error.strerror}") from error
