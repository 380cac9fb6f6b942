"""Writing files so that a reader, or the next start, never meets half of one.

Facts are renamed into place and not fsynced: they must survive a killed process, not a power cut; after a changed
boot id torn files count as absent (design section 1).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put `content` at `path` by a rename within the same directory.

    Args:
        mode: Permission bits of the new file, set before its name appears.

    Raises:
        OSError: The directory is missing or full; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        try:
            write_all(descriptor, content)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it, by no more system calls than that takes: at each of them the event loop may have to wait."""
    written = 0
    while written < len(content):
        written += os.write(descriptor, content[written:])


def read_if_present(path: Path) -> bytes | None:
    """The content of `path`, or None when there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
