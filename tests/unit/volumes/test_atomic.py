"""The atomic writer: layout of contract 6.4, and that a reader never sees a gap or a mixture."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wasmlet.base.errors import UserError
from wasmlet.volumes.atomic import PayloadFile, write

T = TypeVar("T")

NAMES = st.sampled_from(["a", "b", "c.txt", "d/e", "d/f", "g/h/i", ".hidden", ".x"])
PAYLOADS = st.dictionaries(NAMES, st.builds(PayloadFile, st.binary(max_size=8), st.sampled_from([0o400, 0o644])))


def payload(**files: bytes) -> dict[str, PayloadFile]:
    return {name: PayloadFile(content) for name, content in files.items()}


def visible(directory: Path) -> dict[str, bytes]:
    """What a reader finds when it walks the volume, links followed, `..` names skipped."""
    found = {}
    for top in os.listdir(directory):
        if top.startswith(".."):
            continue
        for path in [directory / top, *(directory / top).rglob("*")]:
            if path.is_file():
                found[path.relative_to(directory).as_posix()] = path.read_bytes()
    return found


def content_at(directory: int, name: str) -> bytes:
    with open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb") as stream:
        return stream.read()


@settings(deadline=None, max_examples=60)
@given(st.lists(PAYLOADS, min_size=1, max_size=6))
def test_after_each_update_readers_see_exactly_the_payload(payloads: list[dict[str, PayloadFile]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        before = None
        for files in payloads:
            changed = write(directory, files)
            assert changed == (before is None or files != before)
            assert visible(directory) == {path: file.content for path, file in files.items()}
            for path, file in files.items():
                assert (directory / path).stat().st_mode & 0o777 == file.mode
            versions = [entry for entry in os.listdir(directory) if entry.startswith("..20")]
            assert versions == [os.readlink(directory / "..data")]
            before = files


def test_the_layout_is_the_kubelets(tmp_path: Path) -> None:
    write(tmp_path, {"user/labels": PayloadFile(b"x"), "name": PayloadFile(b"y")})
    version = os.readlink(tmp_path / "..data")
    assert re.fullmatch(r"\.\.\d{4}(_\d\d){5}\..+", version)
    assert os.readlink(tmp_path / "name") == "..data/name"
    assert os.readlink(tmp_path / "user") == "..data/user"
    assert (tmp_path / version).stat().st_mode & 0o777 == 0o755
    assert sorted(os.listdir(tmp_path)) == sorted(["..data", version, "name", "user"])


def test_equal_content_writes_nothing(tmp_path: Path) -> None:
    assert write(tmp_path, payload(a=b"1"))
    before = (os.readlink(tmp_path / "..data"), os.stat(tmp_path).st_mtime_ns)
    assert not write(tmp_path, payload(a=b"1"))
    assert (os.readlink(tmp_path / "..data"), os.stat(tmp_path).st_mtime_ns) == before
    assert write(tmp_path, payload(a=b"2"))


def by_name(read: Callable[[], T]) -> T:
    """A name is always there. A reader that had followed `..data` to the version just removed finds the next one."""
    for _ in range(5):
        with contextlib.suppress(FileNotFoundError):
            return read()
    return read()


def test_a_reader_never_misses_a_file_nor_mixes_versions(tmp_path: Path) -> None:
    write(tmp_path, payload(one=b"0", two=b"0"))
    stop = threading.Event()
    problems: list[str] = []

    def read() -> None:
        while not stop.is_set():
            try:
                assert by_name(lambda: (tmp_path / "one").read_bytes())
                version = by_name(lambda: os.open(tmp_path / "..data", os.O_RDONLY))
            except OSError as error:
                problems.append(repr(error))
                return
            try:
                first, second = (content_at(version, name) for name in ("one", "two"))
                if first != second:
                    problems.append(f"{first!r} {second!r}")
            except FileNotFoundError:
                pass  # the version held by descriptor was removed; a reader by name goes to the new one
            finally:
                os.close(version)

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1, 300):
        write(tmp_path, payload(one=b"%d" % number, two=b"%d" % number))
    stop.set()
    thread.join()
    assert not problems


def test_what_a_killed_agent_left_is_put_right(tmp_path: Path) -> None:
    write(tmp_path, payload(a=b"1", gone=b"1"))
    (tmp_path / "..2020_01_01_00_00_00.half").mkdir()
    (tmp_path / "..data_tmp").symlink_to("..2020_01_01_00_00_00.half")
    (tmp_path / "stale").symlink_to("..data/stale")
    (tmp_path / "a").unlink()
    assert not write(tmp_path, payload(a=b"1", gone=b"1"))
    assert visible(tmp_path) == {"a": b"1", "gone": b"1"}
    assert sorted(os.listdir(tmp_path)) == sorted(["..data", os.readlink(tmp_path / "..data"), "a", "gone"])
    # ..data that leads nowhere: written anew.
    (tmp_path / "..data").unlink()
    (tmp_path / "..data").symlink_to("..lost")
    assert write(tmp_path, payload(a=b"1"))
    assert visible(tmp_path) == {"a": b"1"}


def test_a_directory_made_by_a_sub_path_stays(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    write(tmp_path, payload(a=b"1"))
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "must not be empty"), ("/a", "must be relative path: /a"), ("a/../b", "must not contain '..'"),
        ("..", "must not contain '..'"), ("..data", "must not start with '..'"), ("x" * 256, "longer than 255"),
        (".", "names no file"),
    ],
)  # fmt: skip
def test_paths_that_the_writer_keeps_for_itself_or_that_leave_are_refused(
    tmp_path: Path, path: str, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        write(tmp_path, {path: PayloadFile(b"")})
    assert os.listdir(tmp_path) == []


def test_a_file_cannot_be_a_directory_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a file and the directory"):
        write(tmp_path, {"a": PayloadFile(b""), "a/b": PayloadFile(b"")})


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_group_owns_and_may_read(tmp_path: Path) -> None:
    write(tmp_path, {"d/secret": PayloadFile(b"", 0o600)}, group=4242)
    status = (tmp_path / "d" / "secret").stat()
    assert (status.st_gid, status.st_mode & 0o777) == (4242, 0o640)
    for name in ("..data", "d"):
        assert ((tmp_path / name).stat().st_gid, (tmp_path / name).stat().st_mode & 0o7777) == (4242, 0o2750)
    assert not write(tmp_path, {"d/secret": PayloadFile(b"", 0o600)}, group=4242)


def test_contents_stay_out_of_repr() -> None:
    assert "hunter2" not in repr(PayloadFile(b"hunter2"))
