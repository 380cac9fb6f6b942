"""Reading CRI logs while they are written and rotated."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasmlet.sandbox import logs
from wasmlet.sandbox.logs import Line, LogReader, parse

TIME = "2026-11-23T10:00:00.000000000Z"


class Writer:
    """Writes as an engine does: whole stored lines, and a file by rename and a new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rotations = 0

    def write(self, stream: str, content: bytes) -> None:
        """Content with its newlines; a last part without one is stored as P."""
        with self.path.open("ab") as file:
            for part in _lines(content):
                tag, text = (b"F", part[:-1]) if part.endswith(b"\n") else (b"P", part)
                file.write(f"{TIME} {stream} ".encode() + tag + b" " + text + b"\n")

    def rotate(self, *, keep: int = 100) -> None:
        self.rotations += 1
        self.path.rename(self.path.with_name(f"{self.path.name}.20261123-{self.rotations:06}"))
        self.path.touch()
        for old in sorted(self.path.parent.glob(f"{self.path.name}.*"))[:-keep]:
            old.unlink()


def _lines(content: bytes) -> list[bytes]:
    """Split after each newline, and nowhere else."""
    *complete, rest = content.split(b"\n")
    return [part + b"\n" for part in complete] + ([rest] if rest else [])


def contents(lines: list[Line], stream: str = "stdout") -> bytes:
    return b"".join(line.content for line in lines if line.stream == stream)


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "0.log")


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "line"),
    [
        (f"{TIME} stdout F hello\n".encode(), Line(TIME, "stdout", b"hello\n")),
        (f"{TIME} stderr P half\n".encode(), Line(TIME, "stderr", b"half")),
        (f"{TIME} stdout F \n".encode(), Line(TIME, "stdout", b"\n")),
        (f"{TIME} stdout F:more a b\n".encode(), Line(TIME, "stdout", b"a b\n")),
        (f"{TIME} stdout F ".encode() + b"\xff\0 \r\n", Line(TIME, "stdout", b"\xff\0 \r\n")),
    ],
)
def test_lines(stored: bytes, line: Line) -> None:
    assert parse(stored) == line


@pytest.mark.parametrize("stored", [b"\n", b"a b\n", b"a b c d\n", b"t stdout X d\n", b"t stdin F d\n"])
def test_what_is_no_line(stored: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any message
        parse(stored)


def test_a_lines_moment() -> None:
    assert Line(TIME, "stdout", b"").moment == 1795428000.0


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_log_that_is_not_there_yet(writer: Writer) -> None:
    reader = LogReader(writer.path)
    assert reader.read() == []
    writer.write("stdout", b"a\n")
    assert contents(reader.read()) == b"a\n"
    assert reader.read() == []
    reader.close()


def test_lines_come_as_they_are_written(writer: Writer) -> None:
    with contextlib.closing(LogReader(writer.path)) as reader:
        for part in (b"one\n", b"two\nthr", b"ee\n"):
            writer.write("stdout", part)
            assert contents(reader.read()) == part


def test_half_a_stored_line_is_not_given_out(writer: Writer) -> None:
    with contextlib.closing(LogReader(writer.path)) as reader:
        stored = f"{TIME} stdout F hello\n".encode()
        for position in range(len(stored) - 1):
            with writer.path.open("ab") as file:
                file.write(stored[position : position + 1])
            assert reader.read() == []
        with writer.path.open("ab") as file:
            file.write(b"\n")
        assert contents(reader.read()) == b"hello\n"


def test_rotated_files_are_read_in_order(writer: Writer) -> None:
    for number in range(5):
        writer.write("stdout", f"{number}\n".encode())
        writer.rotate()
    writer.write("stdout", b"5\n")
    with contextlib.closing(LogReader(writer.path)) as reader:
        assert [contents(reader.read()) for _ in range(6)] == [f"{number}\n".encode() for number in range(6)]
        assert reader.read() == []


def test_what_was_written_just_before_a_rotation_is_read(writer: Writer) -> None:
    with contextlib.closing(LogReader(writer.path)) as reader:
        writer.write("stdout", b"a\n")
        assert contents(reader.read()) == b"a\n"
        writer.write("stdout", b"b\n")
        writer.rotate()
        writer.write("stdout", b"c\n")
        assert contents(reader.read()) == b"b\n"
        assert contents(reader.read()) == b"c\n"


def test_a_reader_left_behind_goes_on_with_the_oldest_kept_file(writer: Writer) -> None:
    with contextlib.closing(LogReader(writer.path)) as reader:
        writer.write("stdout", b"a\n")
        reader.read()
        for number in range(4):
            writer.write("stdout", f"{number}\n".encode())
            writer.rotate(keep=2)
        writer.write("stdout", b"last\n")
        seen = b"".join(contents(reader.read()) for _ in range(5))
    assert seen == b"0\n2\n3\nlast\n"  # 0 was in the file that was open


def test_compressed_and_unfinished_files_are_passed_over(writer: Writer) -> None:
    writer.write("stdout", b"a\n")
    for name in ("0.log.20261123-000001.gz", "0.log.20261123-000002.tmp", "10.log", "0.log2"):
        (writer.path.parent / name).write_bytes(b"rubbish\n")
    with contextlib.closing(LogReader(writer.path)) as reader:
        assert contents(reader.read()) == b"a\n"
        assert reader.read() == []


def test_closed_it_begins_anew(writer: Writer) -> None:
    writer.write("stdout", b"a\n")
    reader = LogReader(writer.path)
    assert contents(reader.read()) == b"a\n"
    reader.close()
    assert contents(reader.read()) == b"a\n"
    reader.close()


STEPS = st.lists(
    st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40))
    | st.sampled_from([("rotate", b""), ("read", b"")]),
    max_size=40,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.sampled_from([32, 100, 256 * 1024]))
def test_every_byte_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, bytes]], size: int
) -> None:
    monkeypatch.setattr(logs, "READ_BYTES", size)
    writer = Writer(tmp_path_factory.mktemp("log") / "0.log")
    written, seen = {"stdout": b"", "stderr": b""}, {"stdout": b"", "stderr": b""}
    with contextlib.closing(LogReader(writer.path)) as reader:
        for action, content in [*steps, ("read", b"")]:
            if action == "read":
                while lines := reader.read():
                    for stream in seen:
                        seen[stream] += contents(lines, stream)
            elif action == "rotate":
                if writer.path.exists():
                    writer.rotate()
            else:
                writer.write(action, content)
                written[action] += content
    assert seen == written


def test_no_link_is_followed(writer: Writer, tmp_path: Path) -> None:
    """The engine's user could plant one."""
    (tmp_path / "secret").write_bytes(f"{TIME} stdout F secret\n".encode())
    writer.path.symlink_to("secret")
    with contextlib.closing(LogReader(writer.path)) as reader, pytest.raises(OSError, match="symbolic links"):
        reader.read()
