"""Blobs coming in: whole or not at all."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.ingest import Ingest, sweep, translated
from wasmlet.images.manifest import Descriptor, digest_of

CONTENT = b"content" * 1000
BLOB = Descriptor(media_type="x", digest=digest_of(CONTENT), size=len(CONTENT))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "ingest"
    directory.mkdir()
    return directory


def test_a_blob_appears_when_it_is_whole(directory: Path) -> None:
    destination = directory.parent / "blobs" / "blob"
    ingest = Ingest(directory)
    ingest.write([b"of an attempt that failed"])
    ingest.restart()
    ingest.write([CONTENT[:10]])
    ingest.write([CONTENT[10:]])
    assert not destination.exists()
    ingest.commit(BLOB, destination)
    ingest.close()
    assert destination.read_bytes() == CONTENT
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"x" + CONTENT[1:], b""])
def test_what_is_not_the_blob_is_refused_and_leaves_nothing(directory: Path, content: bytes) -> None:
    ingest = Ingest(directory)
    ingest.write([content])
    with pytest.raises(RetryableError, match=BLOB.digest):
        ingest.commit(BLOB, directory / "blob")
    ingest.close()
    assert list(directory.iterdir()) == []


def test_the_sweep_removes_what_dead_writers_left_and_nothing_else(directory: Path) -> None:
    (directory / "orphan").write_bytes(b"half")
    ingest = Ingest(directory)
    ingest.write([CONTENT])
    assert sweep(directory) == 1
    ingest.commit(BLOB, directory.parent / "blob")
    assert sweep(directory) == 0


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on a file system of 64 KiB; where mounting is not allowed, writes that fail as there."""
    directory = tmp_path / "small" / "ingest"
    directory.parent.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory.parent)], capture_output=True, check=False
    )
    directory.mkdir()
    if mounted.returncode == 0:
        yield directory
        subprocess.run(["umount", str(directory.parent)], check=True)
        return
    room, write = 65536, os.write

    def limited(descriptor: int, content: bytes | memoryview) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(descriptor, content[:room])
        room -= count
        return count

    monkeypatch.setattr("wasmlet.images.ingest.os.write", limited)
    yield directory


def test_a_full_disk_is_said_and_leaves_nothing(full_disk: Path) -> None:
    ingest = Ingest(full_disk)
    with pytest.raises(RetryableError, match=f"{full_disk.parent}.*No space left.*free some space"):
        ingest.write([bytes(200_000)])
    ingest.close()
    assert list(full_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, RetryableError),
        (errno.EDQUOT, RetryableError),
        (errno.EACCES, UserError),
        (errno.EROFS, UserError),
        (errno.EIO, RetryableError),
    ],
)
def test_the_disk_s_errors_say_who_has_to_act(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="cannot write to the image store /x"), translated(Path("/x"), "write to"):
        raise OSError(number, os.strerror(number))
