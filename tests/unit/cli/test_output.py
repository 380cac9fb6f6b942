"""Tables, JSON, and the output of containers."""

import pytest

from wasmlet.cli.follow import Output
from wasmlet.cli.output import Table, print_json
from wasmlet.sandbox.logs import Line


def test_a_table_has_aligned_columns_and_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("NAME", "AGE")
    table.add("a-long-name", "5s")
    table.add("b", "")
    table.print()
    assert capsys.readouterr().out == "NAME          AGE\na-long-name   5s\nb\n"


def test_json_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1]})
    assert capsys.readouterr().out == '{\n  "a": [\n    1\n  ]\n}\n'


def lines(*contents: bytes, stream: str = "stdout") -> list[Line]:
    return [Line("t", stream, content) for content in contents]


def test_one_container_is_passed_byte_for_byte(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    output = Output(prefixed=False)
    output.write("a", lines(b"one\n", b"tw", b"o", b"\0\xff\n"))
    output.write("a", lines(b"err", stream="stderr"))
    output.finish("a")
    seen = capsysbinary.readouterr()
    assert (seen.out, seen.err) == (b"one\ntwo\0\xff\n", b"err")


def test_several_containers_get_whole_lines(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    output = Output(prefixed=True)
    output.write("a", lines(b"first "))
    output.write("b", lines(b"other\n"))
    output.write("a", lines(b"half\n", b"rest"))
    output.write("a", lines(b"err\n", stream="stderr"))
    output.finish("a")
    seen = capsysbinary.readouterr()
    assert (seen.out, seen.err) == (b"[b] other\n[a] first half\n[a] rest\n", b"[a] err\n")
