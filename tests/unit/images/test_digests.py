"""Digests that are remembered; their use on modules is in test_local.py, on blobs in test_library.py."""

from pathlib import Path

import pytest

from wasmlet.images import digests as digests_module
from wasmlet.images.digests import Digests, NotRegularError
from wasmlet.images.manifest import digest_of


async def test_what_was_remembered_holds_until_the_file_changes(tmp_path: Path) -> None:
    file, digests = tmp_path / "file", Digests()
    file.write_bytes(b"content")
    assert digests.remembered(file) is None
    digests.remember(digests.identify(file), "sha256:of the writer")
    assert digests.remembered(file) == "sha256:of the writer"
    assert await digests.of(file) == ("sha256:of the writer", 7)
    file.write_bytes(b"other")
    assert digests.remembered(file) is None
    assert await digests.of(file) == (digest_of(b"other"), 5)
    assert digests.remembered(file) == digest_of(b"other")


async def test_links_and_directories_have_no_digest(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="symbolic link"):
        await Digests().of(tmp_path / "link")
    with pytest.raises(NotRegularError):
        await Digests().of(tmp_path)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests_module, "MAX_REMEMBERED", 2)
    digests = Digests()
    for name in "abc":
        (tmp_path / name).touch()
        digests.remember(digests.identify(tmp_path / name), name)
    assert [digests.remembered(tmp_path / name) for name in "abc"] == [None, "b", "c"]
