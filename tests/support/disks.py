"""Directories of their own for tests: a small disk, and one that other users may pass."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(directory: Path, *, size: str) -> Iterator[Path]:
    """`directory` with a file system of `size` (of mount: `4m`) on it; skips the test where mounting is refused."""
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine refuses to mount: {mounted.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextlib.contextmanager
def passable_directory() -> Iterator[Path]:
    """A directory through which engines of other users come; pytest closes its own ones to them."""
    directory = Path(tempfile.mkdtemp(prefix="wasmlet-test-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
