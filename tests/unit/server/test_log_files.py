"""A log's files: tails across rotations, and reading on while they change. Judged by a naive reader."""

import contextlib
import itertools
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wasmlet.server import log_files
from wasmlet.server.log_files import LogFiles
from wasmlet.server.log_options import LogOptions
from wasmlet.server.log_output import LogOutput

TIMES = [f"2026-11-23T10:00:0{second}.{fraction}Z".encode() for second in range(4) for fraction in ("5", "000000001")]


class Folder:
    """A container's log directory."""

    def __init__(self, path: Path) -> None:
        self.root = path
        self.container = path / "main"
        self.container.mkdir()
        self.current = self.container / "0.log"
        self._count = itertools.count()

    def append(self, content: bytes) -> None:
        with self.current.open("ab") as file:
            file.write(content)

    def rotate(self, *, keep: int = 100) -> None:
        self.current.rename(self.container / f"0.log.20261123-{next(self._count):06}")
        for old in sorted(self.container.glob("0.log.*"))[:-keep]:
            old.unlink()

    def reader(self) -> LogFiles:
        return LogFiles(self.root, "main", "0.log")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def everything(files: LogFiles) -> list[bytes]:
    lines = []
    while found := files.read():
        lines += found
    return lines


def tail(folder: Folder, lines: int | None) -> list[bytes]:
    with contextlib.closing(folder.reader()) as files:
        files.start(tail_lines=lines)
        return everything(files)


# --- against a naive reader -------------------------------------------------------------------------------------------

STORED = st.builds(
    lambda time, stream, tag, content: b" ".join([time, stream, tag, content.replace(b"\n", b"")]),
    st.sampled_from(TIMES),
    st.sampled_from([b"stdout", b"stderr"]),
    st.sampled_from([b"F", b"P"]),
    st.binary(max_size=20),
)
LINES = st.lists(STORED | st.binary(max_size=12).map(lambda junk: junk.replace(b"\n", b"")), max_size=12)
FILES = st.lists(st.tuples(LINES, st.booleans()), min_size=1, max_size=4)
OPTIONS = st.builds(
    LogOptions,
    timestamps=st.booleans(),
    since=st.none() | st.integers(0, 4).map(lambda second: (1795428000 + second) * 10**9),
    tail_lines=st.none() | st.integers(0, 30),
    limit_bytes=st.none() | st.integers(1, 200),
)


def naive(files: list[list[bytes]], torn: bytes, options: LogOptions) -> bytes:
    """All lines in memory, one by one."""
    lines = [line + b"\n" for file in files for line in file]
    if options.tail_lines is None:
        lines = [*lines, *([torn] if torn else [])]
    else:
        lines = lines[len(lines) - min(options.tail_lines, len(lines)) :]
    shown = b""
    for line in lines:
        parts = line.split(b" ", 3)
        if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr") or parts[0] not in TIMES:
            continue
        seconds = 1795428000 + int(parts[0][17:19])
        fraction = int(parts[0][20:-1].ljust(9, b"0"))
        if options.since is not None and seconds * 10**9 + fraction < options.since:
            continue
        text = parts[3][:-1] if parts[2] == b"P" and parts[3].endswith(b"\n") else parts[3]
        if options.timestamps and (not shown or shown.endswith(b"\n")):
            text = parts[0][:20] + b"%09d" % fraction + b"Z " + text
        shown += text
    return shown if options.limit_bytes is None else shown[: options.limit_bytes]


@settings(deadline=None, max_examples=300)
@given(FILES, OPTIONS, st.sampled_from([16, 50, 64 * 1024]))
def test_any_options_on_any_files(files: list[tuple[list[bytes], bool]], options: LogOptions, size: int) -> None:
    """Each file may be torn: its last line has no newline."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(log_files, "READ_BYTES", size)
        folder = Folder(Path(directory))
        for position, (lines, is_torn) in enumerate(files):
            content = b"".join(line + b"\n" for line in lines)
            folder.append(content[:-1] if is_torn else content)
            if position < len(files) - 1:
                folder.rotate()
        *older, (newest, is_torn) = files
        # An older file's torn end is a line, unless nothing is left of it.
        kept = [lines[:-1] if torn and lines and not lines[-1] else lines for lines, torn in older]
        torn = newest[-1] if is_torn and newest else b""
        expected = naive([*kept, newest[:-1] if is_torn else newest], torn, options)
        with contextlib.closing(folder.reader()) as reader:
            reader.start(tail_lines=options.tail_lines)
            output = LogOutput(options)
            shown = b"".join([output.format([line]) for line in everything(reader)])
            if options.tail_lines is None:
                shown += output.format([reader.rest()])
        assert shown == expected


STEPS = st.lists(st.binary(min_size=1, max_size=30) | st.sampled_from(["rotate", "read", "forget"]), max_size=40)


@settings(deadline=None, max_examples=300)
@example(["rotate", b"\n", "rotate"], 16, 0)  # the newest file has been renamed and has no successor yet
@given(STEPS, st.sampled_from([16, 64 * 1024]), st.integers(0, 3))
def test_a_reader_that_goes_on_misses_nothing(steps: list[bytes | str], size: int, lines: int) -> None:
    """Rotations happen between whole lines, as engines do it; "forget" also deletes every rotated file."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(log_files, "READ_BYTES", size)
        folder = Folder(Path(directory))
        before = [b"%d\n" % number for number in range(5)]
        folder.append(b"".join(before))
        expected = before[5 - lines :]
        with contextlib.closing(folder.reader()) as reader:
            reader.start(tail_lines=lines)
            seen = everything(reader)
            for step in [*steps, "read"]:
                if step == "read":
                    seen += everything(reader)
                elif isinstance(step, bytes):
                    folder.append(step)
                    expected.append(step)
                elif folder.current.exists() and (not expected or expected[-1].endswith(b"\n")):
                    if step == "forget":
                        seen += everything(reader)  # else it is lost, and rightly
                    folder.rotate(keep=1 if step == "forget" else 100)
            assert b"".join(seen) + reader.rest() == b"".join(expected)


# --- special things ---------------------------------------------------------------------------------------------------


def test_there_is_no_log_yet(folder: Folder) -> None:
    with contextlib.closing(folder.reader()) as files:
        files.start(tail_lines=None)
        assert files.read() == []
        folder.append(b"a\n")
        assert files.read() == [b"a\n"]


def test_there_is_no_directory(tmp_path: Path) -> None:
    with contextlib.closing(LogFiles(tmp_path / "nowhere", "main", "0.log")) as files:
        files.start(tail_lines=3)
        assert files.read() == []


def test_a_tail_reads_only_the_end(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.append(b"x" * 99 + b"\n")
    with folder.current.open("ab") as file:
        for _ in range(1000):
            file.write((b"y" * 99 + b"\n") * 100)  # 10 MB
    read = 0
    pread, plain = os.pread, os.read

    def counting(descriptor: int, count: int, offset: int) -> bytes:
        nonlocal read
        read += count
        return pread(descriptor, count, offset)

    def counting_read(descriptor: int, count: int) -> bytes:
        nonlocal read
        content = plain(descriptor, count)
        read += len(content)
        return content

    monkeypatch.setattr(os, "pread", counting)
    monkeypatch.setattr(os, "read", counting_read)
    assert len(tail(folder, 10)) == 10
    assert read < 3 * log_files.READ_BYTES


def test_a_tail_goes_back_over_rotated_files(folder: Folder) -> None:
    for number in range(4):
        folder.append(b"%d\n" % number)
        folder.rotate()
    folder.append(b"4\n")
    assert tail(folder, 3) == [b"2\n", b"3\n", b"4\n"]
    assert tail(folder, 5) == [b"%d\n" % number for number in range(5)]
    assert tail(folder, 50) == [b"%d\n" % number for number in range(5)]
    assert tail(folder, 0) == []


def test_packed_files_and_others_are_passed_over(folder: Folder) -> None:
    for name in ("0.log.20261123-000001.gz", "0.log.20261123-000002.tmp", "10.log", "0.log2"):
        (folder.container / name).write_bytes(b"rubbish\n")
    folder.append(b"a\n")
    assert tail(folder, None) == [b"a\n"]


def test_a_planted_link_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret\n")
    folder.current.symlink_to(secret)
    (folder.container / "0.log.20261123-000001").symlink_to(secret)
    os.mkfifo(folder.container / "0.log.20261123-000002")
    assert tail(folder, None) == []


def test_a_planted_directory_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.log").write_bytes(b"secret\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "main").symlink_to(tmp_path / "elsewhere")
    with contextlib.closing(LogFiles(tmp_path / "logs", "main", "0.log")) as files:
        files.start(tail_lines=None)
        assert files.read() == []


def test_a_line_without_an_end_does_not_fill_the_memory(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "LONGEST_LINE_BYTES", 1000)
    monkeypatch.setattr(log_files, "READ_BYTES", 100)
    folder.append(b"a\n" + b"x" * 5000 + b"\nb\n")
    with contextlib.closing(folder.reader()) as files:
        files.start(tail_lines=None)
        assert everything(files) == [b"a\n", b"b\n"]
        assert files.rest() == b""


def test_a_rotation_while_files_are_opened(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.append(b"a\n")
    files = folder.reader()
    names, rotations = files._names, iter([True, True])

    def and_rotate() -> list[str]:
        found = names()
        if next(rotations, False):
            folder.rotate()
            folder.append(b"next\n")
        return found

    monkeypatch.setattr(files, "_names", and_rotate)
    with contextlib.closing(files):
        files.start(tail_lines=None)
        assert everything(files) == [b"a\n", b"next\n", b"next\n"]


def test_nothing_stays_open(folder: Folder) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        folder.append(b"%d\n" % number)
        folder.rotate()
    folder.append(b"end\n")
    with contextlib.closing(folder.reader()) as files:
        files.start(tail_lines=None)
        files.read()
        assert len(os.listdir("/proc/self/fd")) > before
    tail(folder, 2)
    tail(folder, None)
    assert len(os.listdir("/proc/self/fd")) == before
