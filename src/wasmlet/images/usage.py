"""What a directory takes of its file system, and what is left there: a kubelet's `imageFs` (contract 7.5)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_BLOCK_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Usage:
    """A directory and its file system.

    Attributes:
        used_bytes: What the directory's files take on the disk.
        inodes_used: How many files and directories they are.
        capacity_bytes, available_bytes, inodes, inodes_free: Of the file system; 0 inodes where it counts none.
    """

    used_bytes: int
    inodes_used: int
    capacity_bytes: int
    available_bytes: int
    inodes: int
    inodes_free: int


def measured(directory: Path) -> Usage:
    """Looks at every file below the directory; what is removed meanwhile does not count. Blocks.

    Raises:
        OSError: The directory is not there, or its disk does not answer.
    """
    found = os.statvfs(directory)
    used, inodes, waiting = 0, 0, [str(directory)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    used, inodes = used + status.st_blocks * _BLOCK_BYTES, inodes + 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except FileNotFoundError:
            continue
    return Usage(
        used_bytes=used,
        inodes_used=inodes,
        capacity_bytes=found.f_blocks * found.f_frsize,
        available_bytes=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_favail,
    )
