"""subPath: inside the volume, links included, made when missing (contract 6.4)."""

from __future__ import annotations

from pathlib import Path

import pytest

from wasmlet.base.errors import UserError
from wasmlet.volumes.atomic import PayloadFile, write
from wasmlet.volumes.sub_path import resolve_sub_path
from wasmlet.volumes.volume import HostVolume


@pytest.fixture
def volume(tmp_path: Path) -> HostVolume:
    (tmp_path / "outside").mkdir()
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume").chmod(0o777)
    return HostVolume(tmp_path / "volume", read_only=False, foreign=False)


def test_a_missing_place_is_made_as_open_as_the_volume(volume: HostVolume) -> None:
    assert resolve_sub_path(volume, "a/./b//") == "a/b"
    assert resolve_sub_path(volume, "a/b") == "a/b"
    assert (volume.path / "a" / "b").stat().st_mode & 0o777 == 0o777


def test_the_empty_sub_path_is_the_volume(volume: HostVolume) -> None:
    assert resolve_sub_path(volume, "") == ""


def test_links_that_stay_inside_are_followed(volume: HostVolume) -> None:
    write(volume.path, {"key": PayloadFile(b"v"), "dir/file": PayloadFile(b"")})
    place = resolve_sub_path(volume, "key")
    assert (volume.path / place).read_bytes() == b"v"
    assert place.startswith("..2")
    assert not (volume.path / resolve_sub_path(volume, "dir")).is_symlink()
    made = resolve_sub_path(volume, "dir/new/deep")
    assert (volume.path / made).is_dir()
    assert (volume.path / "dir/new/deep").is_dir()


@pytest.mark.parametrize("target", ["../outside", "..", "/", "/etc"])
def test_links_that_leave_are_refused_and_nothing_is_made(volume: HostVolume, target: str) -> None:
    (volume.path / "link").symlink_to(target)
    for sub_path in ("link", "link/new"):
        with pytest.raises(UserError):
            resolve_sub_path(volume, sub_path)
    assert list((volume.path.parent / "outside").iterdir()) == []


def test_a_dangling_link_or_a_file_on_the_way_is_refused(volume: HostVolume) -> None:
    (volume.path / "dangling").symlink_to("nowhere")
    (volume.path / "file").write_text("")
    for sub_path in ("dangling", "dangling/x", "file/x"):
        with pytest.raises(UserError):
            resolve_sub_path(volume, sub_path)


@pytest.mark.parametrize("sub_path", ["/etc", "../outside", "a/../../outside"])
def test_paths_that_leave_by_name_are_refused(volume: HostVolume, sub_path: str) -> None:
    with pytest.raises(UserError):
        resolve_sub_path(volume, sub_path)
