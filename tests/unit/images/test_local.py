"""Modules on this machine."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.images import digests
from wasmlet.images.local import LocalFiles
from wasmlet.images.reference import LocalFile


async def test_the_digest_is_of_the_content_and_remembered(module_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    hash_some = digests._hash_some

    def counted(descriptor: int, digest: "hashlib._Hash") -> bool:
        nonlocal reads
        reads += 1
        return hash_some(descriptor, digest)

    monkeypatch.setattr(digests, "_hash_some", counted)
    monkeypatch.setattr(digests, "READ_SIZE", 1 << 20)
    files, file = LocalFiles(), LocalFile(module_file)
    content = module_file.read_bytes()
    expected = (f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))
    assert set(await asyncio.gather(files.digest(file), files.digest(file))) == {expected}
    once = reads
    assert await files.digest(file) == expected
    assert reads == once
    module_file.write_bytes(content + b"\0")
    os.utime(module_file, ns=(1, 1))
    assert (await files.digest(file))[0] != expected[0]
    await files.close()


async def test_what_cannot_be_used_is_told_apart(tmp_path: Path) -> None:
    files = LocalFiles()
    with pytest.raises(NotFoundError, match=r"nowhere\.wasm does not exist"):
        await files.digest(LocalFile(tmp_path / "nowhere.wasm"))
    with pytest.raises(UserError, match="is a directory"):
        await files.digest(LocalFile(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="not a regular file"):
        await files.digest(LocalFile(tmp_path / "fifo"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="cannot read module"):
        await files.digest(LocalFile(tmp_path / "loop"))
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="does not exist"):
        await files.digest(LocalFile(tmp_path / "file" / "x.wasm"))


async def test_a_file_that_changes_under_the_reader_is_an_error(
    module_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(descriptor: int, digest: "hashlib._Hash") -> bool:
        module_file.write_bytes(b"other")
        return False

    monkeypatch.setattr(digests, "_hash_some", changed)
    with pytest.raises(RetryableError, match="changes while it is read"):
        await LocalFiles().digest(LocalFile(module_file))
