"""Stored lines as people see them."""

import pytest

from wasmlet.server.log_options import LogOptions
from wasmlet.server.log_output import LogOutput

T = b"2026-11-23T10:00:00.000000000Z"


def show(*stored: bytes, **options: object) -> bytes:
    return LogOutput(LogOptions(**options)).format(stored)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (T + b" stdout F hello\n", b"hello\n"),
        (T + b" stderr F \n", b"\n"),
        (T + b" stdout P half\n", b"half"),
        (T + b" stdout P:more half\n", b"half"),
        (T + b" stdout F:P a b \n", b"a b \n"),
        (T + b" stdout F \xff\0\r\n", b"\xff\0\r\n"),
        (T + b" stdout F torn", b"torn"),
        (T + b" stdout P torn", b"torn"),
        (T + b" stdout F", b""),
        (T + b" stdin F x\n", b""),
        (b"yesterday stdout F x\n", b""),
        (b"\n", b""),
        (b"", b""),
        (b"\xff\xff \xff \xff \xff\n", b""),
    ],
)
def test_a_line(stored: bytes, shown: bytes) -> None:
    assert show(stored) == shown


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (b"2026-11-23T10:00:00Z", b"2026-11-23T10:00:00.000000000Z"),
        (b"2026-11-23T10:00:00.5Z", b"2026-11-23T10:00:00.500000000Z"),
        (b"2026-11-23T10:00:00.123456789+02:00", b"2026-11-23T10:00:00.123456789+02:00"),
        (b"2026-11-23T10:00:00.12+00:00", b"2026-11-23T10:00:00.120000000Z"),
    ],
)
def test_timestamps_have_nine_digits(time: bytes, shown: bytes) -> None:
    assert show(time + b" stdout F x\n", timestamps=True) == shown + b" x\n"


def test_parts_of_a_line_have_one_timestamp() -> None:
    stored = [T + b" stdout P a\n", T + b" stdout P b\n", T + b" stdout F c\n", T + b" stdout F d\n"]
    assert show(*stored, timestamps=True) == T + b" abc\n" + T + b" d\n"


def test_lines_before_a_moment_are_left_out() -> None:
    stored = [b"2026-11-23T10:00:00.%09dZ stdout F %d\n" % (number, number) for number in range(4)]
    assert show(*stored, since=1795428000_000000002) == b"2\n3\n"


def test_one_stream() -> None:
    stored = [T + b" stdout F out\n", T + b" stderr F err\n"]
    assert show(*stored, stream=b"stderr") == b"err\n"


def test_a_limit_cuts_anywhere_and_counts_timestamps() -> None:
    output = LogOutput(LogOptions(limit_bytes=len(T) + 3, timestamps=True))
    assert output.format([T + b" stdout F hello\n"]) == T + b" he"
    assert output.is_full
    assert output.format([T + b" stdout F hello\n"]) == b""


def test_a_limit_that_is_not_reached() -> None:
    output = LogOutput(LogOptions(limit_bytes=7))
    assert output.format([T + b" stdout F hello\n"]) == b"hello\n"
    assert not output.is_full
    assert output.format([T + b" stdout F hello\n"]) == b"h"
    assert output.is_full
