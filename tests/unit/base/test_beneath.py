"""`base.beneath` against what a guest can plant: links, races, pipes, deep trees."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmlet.base import beneath, removal
from wasmlet.base.errors import NotFoundError, RetryableError, UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("outside")
    inside = tmp_path / "root"
    inside.mkdir()
    (inside / "dir").mkdir()
    (inside / "dir" / "file").write_bytes(b"0123456789")
    return inside


@contextmanager
def swapping(path: Path, link_target: str) -> Iterator[None]:
    """A guest that swaps the directory `path` for a link and back, as fast as it can."""
    stop = threading.Event()
    parked, link = path.with_name("parked"), path.with_name("link")
    link.symlink_to(link_target)

    def swap() -> None:
        while not stop.is_set():
            for source, target in ((path, parked), (link, path), (path, link), (parked, path)):
                with suppress(OSError):  # the agent has made the missing directory meanwhile
                    os.rename(source, target)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc", "..", "a/../b", "a/..", "../../x", "a\0b", "x" * 256, "a/" * 3000])
def test_a_path_that_is_absolute_goes_up_or_is_too_long_is_refused(path: str) -> None:
    with pytest.raises(UserError):
        beneath.relative_path(path)


@given(st.text())
def test_a_checked_path_never_leaves_its_root(path: str) -> None:
    try:
        joined = Path("/root") / beneath.relative_path(path)
    except (UserError, UnicodeEncodeError):
        return
    assert os.path.normpath(joined) == str(joined)
    assert str(joined) == "/root" or str(joined).startswith("/root/")


def test_names_that_only_look_like_going_up_are_kept() -> None:
    assert beneath.relative_path("./..data//...") == "..data/..."


# --- reading ----------------------------------------------------------------------------------------------------------


def test_reading_is_bounded_at_either_end(root: Path) -> None:
    assert beneath.read_file(root, "dir/file", limit_bytes=4) == b"0123"
    assert beneath.read_file(root, "dir/file", limit_bytes=4, from_end=True) == b"6789"
    assert beneath.read_file(root, "dir/file", limit_bytes=40, from_end=True) == b"0123456789"


def test_hard_links_are_files_like_others(root: Path) -> None:
    os.link(root / "dir" / "file", root / "hard")
    assert beneath.read_file(root, "hard", limit_bytes=100) == b"0123456789"


@pytest.mark.parametrize("target", ["../outside/secret", "/etc/hostname", "dir/file", "/proc/self/root/etc/hostname"])
def test_a_link_in_last_place_is_not_followed(root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    with pytest.raises(UserError, match="link"):
        beneath.read_file(root, "link", limit_bytes=1)


@pytest.mark.parametrize("target", ["..", "../outside", "/", "dir"])
def test_a_link_on_the_way_is_not_followed(root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    for action in (
        lambda: beneath.read_file(root, "link/secret", limit_bytes=1),
        lambda: beneath.write_file(root, "link/new", b""),
        lambda: beneath.make_directories(root, "link/new"),
        lambda: beneath.stat(root, "link/secret"),
        lambda: os.close(beneath.open_directory(root, "link")),
    ):
        with pytest.raises(UserError) as caught:
            action()
        assert caught.value.reason == "UnsafePath"
    assert sorted(os.listdir(root.parent / "outside")) == ["secret"]
    assert not beneath.exists(root, "link/secret")


def test_what_is_missing_is_not_found(root: Path) -> None:
    for path in ("missing", "missing/below", "dir/file/below"):
        with pytest.raises(NotFoundError):
            beneath.read_file(root, path, limit_bytes=1)
        assert beneath.stat(root, path) is None


def test_pipes_sockets_devices_and_directories_are_refused_without_blocking(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        listener.listen()
        for name in ("pipe", "socket", "dir"):
            with pytest.raises(UserError, match="not a regular file"):
                beneath.read_file(root, name, limit_bytes=1)
    with pytest.raises(UserError, match="not a regular file"):
        beneath.read_file(Path("/dev"), "null", limit_bytes=1)


def test_stat_describes_a_link_itself(root: Path) -> None:
    (root / "link").symlink_to("/etc")
    status = beneath.stat(root, "link")
    assert status is not None
    assert stat.S_ISLNK(status.st_mode)


def test_links_that_stay_inside_can_be_located_and_others_cannot(root: Path) -> None:
    (root / "link").symlink_to("dir")
    (root / "out").symlink_to("../outside")
    (root / "absolute").symlink_to(root / "dir")
    assert beneath.locate(root, "link/file") == "dir/file"
    assert beneath.locate(root, "") == ""
    for name in ("out", "absolute"):
        with pytest.raises(UserError):
            beneath.locate(root, name)
    with pytest.raises(NotFoundError):
        beneath.locate(root, "nothing")


def test_a_kernel_without_openat2_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beneath, "OPENAT2", 100_000)
    with pytest.raises(Exception, match=r"openat2.*Linux 5\.6"):
        beneath.stat(root, "dir")


# --- races ------------------------------------------------------------------------------------------------------------


def test_a_guest_that_swaps_a_directory_for_a_link_never_leads_outside(root: Path) -> None:
    (root / "dir" / "secret").write_text("inside")
    seen = set()
    with swapping(root / "dir", "../outside"):
        for _ in range(3000):
            try:
                seen.add(beneath.read_file(root, "dir/secret", limit_bytes=100))
                beneath.write_file(root, "dir/written", b"x")
                beneath.make_directories(root, "dir/made")
            except (UserError, RetryableError):
                continue
    assert seen <= {b"inside"}
    assert os.listdir(root.parent / "outside") == ["secret"]


def test_removing_a_tree_whose_directories_are_being_swapped(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    victim = tmp_path / "victim"
    (victim / "a" / "b").mkdir(parents=True)
    (victim / "x").symlink_to("../outside")
    stop = threading.Event()

    def guest() -> None:
        while not stop.is_set():
            try:
                os.rename(victim / "a", victim / "t")
                os.rename(victim / "x", victim / "a")
                os.rename(victim / "a", victim / "x")
                os.rename(victim / "t", victim / "a")
            except OSError:
                continue

    thread = threading.Thread(target=guest)
    thread.start()
    try:
        beneath.remove_tree(victim)
    finally:
        stop.set()
        thread.join()
    assert not victim.exists()
    assert (outside / "kept").read_text() == "kept"


# --- writing ----------------------------------------------------------------------------------------------------------


def test_writing_replaces_a_planted_link_itself(root: Path) -> None:
    (root / "hosts").symlink_to("../outside/secret")
    beneath.write_file(root, "hosts", b"new", mode=0o640)
    assert not (root / "hosts").is_symlink()
    assert (root / "hosts").read_bytes() == b"new"
    assert (root / "hosts").stat().st_mode & 0o777 == 0o640
    assert (root.parent / "outside" / "secret").read_text() == "outside"


def test_a_failed_write_leaves_nothing(root: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        beneath.write_file(root, "dir", b"x")
    with pytest.raises(NotFoundError):
        beneath.write_file(root, "missing/file", b"x")
    assert os.listdir(root) == ["dir"]


def test_directories_get_their_mode_whatever_the_umask(root: Path) -> None:
    beneath.make_directories(root, "a/b/c", mode=0o777)
    beneath.make_directories(root, "a/b/c", mode=0o700)
    assert {(root / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/c")} == {0o777}


def test_a_hard_link_shows_later_writes_and_a_copy_does_not(root: Path) -> None:
    source = beneath.open_file(root, "dir/file")
    beneath.link_file(source, root, "linked")
    beneath.link_file(source, root, "linked")
    beneath.copy_file(source, root, "copied", mode=0o600)
    os.close(source)
    with (root / "linked").open("ab") as stream:
        stream.write(b"!")
    assert (root / "dir" / "file").read_bytes() == b"0123456789!"
    assert (root / "copied").read_bytes() == b"0123456789"
    assert sorted(os.listdir(root)) == ["copied", "dir", "linked"]


# --- removing ---------------------------------------------------------------------------------------------------------


def test_removing_what_is_not_there_is_success(tmp_path: Path) -> None:
    beneath.remove_tree(tmp_path / "nothing")
    beneath.remove_tree(tmp_path, "nothing/below")


def test_a_very_deep_tree_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "deep"
    top.mkdir()
    current = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 100, dir_fd=current)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = below
    os.close(current)
    beneath.remove_tree(top)
    assert not top.exists()


def test_closed_directories_of_an_image_are_removed(tmp_path: Path) -> None:
    (tmp_path / "tree" / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "closed" / "inner" / "file").write_text("")
    (tmp_path / "tree" / "closed" / "inner").chmod(0o555)
    (tmp_path / "tree" / "closed").chmod(0o000)
    beneath.remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_link_to_a_tree_is_removed_and_the_tree_stays(root: Path) -> None:
    (root / "link").symlink_to("../outside")
    beneath.remove_tree(root, "link")
    assert (root.parent / "outside" / "secret").exists()
    assert not (root / "link").is_symlink()


def test_a_directory_that_keeps_filling_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full" / "sub").mkdir(parents=True)
    monkeypatch.setattr(removal, "_empty", lambda top: None)
    with pytest.raises(RetryableError, match="keeps filling"):
        beneath.remove_tree(tmp_path / "full")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_what_is_not_ours_is_an_error_at_once() -> None:
    # Not below tmp_path, which other users cannot enter.
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "file").write_text("")
        os.chmod(name, 0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                beneath.remove_tree(Path(name) / "file")
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="others give nothing away")
def test_a_tree_is_given_with_its_links_and_nothing_that_they_lead_to(root: Path) -> None:
    (root / "dir" / "link").symlink_to("../../outside/secret")
    (root / "away").symlink_to("../outside")
    beneath.give_tree(root, 1234)
    for each in (root, root / "dir", root / "dir" / "file", root / "dir" / "link", root / "away"):
        assert each.lstat().st_uid == 1234, each
    outside = root.parent / "outside"
    assert (outside.stat().st_uid, (outside / "secret").stat().st_uid) == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="others give nothing away")
def test_root_s_copy_belongs_to_whom_the_source_belongs(root: Path) -> None:
    os.chown(root / "dir" / "file", 1234, 4321)
    source = beneath.open_file(root, "dir/file")
    beneath.copy_file(source, root, "copy", mode=0o440)
    os.close(source)
    found = (root / "copy").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o440)
