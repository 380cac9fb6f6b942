"""Log options from a query: what a kubelet takes, refuses and cannot read."""

import pytest

from wasmlet.base.errors import UserError
from wasmlet.server.log_options import (
    InvalidOptionsError,
    LogOptions,
    UnreadableOptionsError,
    nanoseconds,
    parse_options,
)

NOW = 1795428000.0


def parse(query: dict[str, str], *, split_streams: bool = False) -> LogOptions:
    return parse_options({name: [value] for name, value in query.items()}, now=NOW, split_streams=split_streams)


def test_nothing_is_asked_for() -> None:
    assert parse({}) == LogOptions()


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({"follow": "true"}, LogOptions(follow=True)),
        ({"follow": ""}, LogOptions(follow=True)),
        ({"follow": "False"}, LogOptions()),
        ({"follow": "0", "previous": "1"}, LogOptions(previous=True)),
        ({"timestamps": "yes"}, LogOptions(timestamps=True)),
        ({"tailLines": "0"}, LogOptions(tail_lines=0)),
        ({"tailLines": "+7"}, LogOptions(tail_lines=7)),
        ({"tail": "7", "tailLines": "8"}, LogOptions(tail_lines=7)),
        ({"tail": "all", "tailLines": "8"}, LogOptions()),
        ({"limitBytes": "1"}, LogOptions(limit_bytes=1)),
        ({"sinceSeconds": "10"}, LogOptions(since=1795427990_000000000)),
        ({"sinceTime": "2026-11-23T10:00:00Z"}, LogOptions(since=1795428000_000000000)),
        ({"sinceTime": "2026-11-23T12:00:00.000000001+02:00"}, LogOptions(since=1795428000_000000001)),
        ({"sinceTime": ""}, LogOptions(since=-(1 << 63))),
        ({"stream": "All"}, LogOptions()),
        ({"container": "main", "insecureSkipTLSVerifyBackend": "true", "unknown": "x"}, LogOptions()),
    ],
)
def test_options(query: dict[str, str], options: LogOptions) -> None:
    assert parse(query) == options


@pytest.mark.parametrize("stream", ["Stdout", "Stderr"])
def test_one_stream_needs_its_gate(stream: str) -> None:
    assert parse({"stream": stream}, split_streams=True).stream == stream.lower().encode()
    with pytest.raises(
        UserError, match=f'unable to return the given log stream: "{stream}". Please enable Pod'
    ) as caught:
        parse({"stream": stream})
    assert not isinstance(caught.value, InvalidOptionsError)


@pytest.mark.parametrize(
    "query",
    [
        {"tailLines": "-1"},
        {"limitBytes": "0"},
        {"sinceSeconds": "0"},
        {"sinceSeconds": "-5"},
        {"sinceSeconds": "5", "sinceTime": "2026-11-23T10:00:00Z"},
        {"sinceSeconds": "5", "sinceTime": "null"},
        {"stream": "stdout"},
        {"stream": ""},
        {"stream": "Stdout", "tailLines": "1"},
    ],
)
def test_out_of_bounds(query: dict[str, str]) -> None:
    with pytest.raises(InvalidOptionsError) as caught:
        parse(query)
    assert caught.value.message == '{"message": "Invalid request."}'


@pytest.mark.parametrize(
    "query",
    [
        {"tailLines": ""},
        {"tailLines": "five"},
        {"tailLines": "1.0"},
        {"tailLines": "1_000"},
        {"tailLines": "٣"},
        {"limitBytes": "9223372036854775808"},
        {"limitBytes": "9" * 5000},
        {"sinceSeconds": " 1"},
        {"sinceTime": "yesterday"},
        {"sinceTime": "2026-11-23"},
        {"sinceTime": "2026-11-23T10:00:00"},
        {"sinceTime": "2026-13-23T10:00:00Z"},
    ],
)
def test_unreadable(query: dict[str, str]) -> None:
    with pytest.raises(UnreadableOptionsError) as caught:
        parse(query)
    assert caught.value.message == '{"message": "Unable to decode query."}'


def test_of_a_repeated_parameter_the_first_counts() -> None:
    assert parse_options({"tailLines": ["1", "x"]}, now=NOW).tail_lines == 1


@pytest.mark.parametrize(
    ("time", "moment"),
    [
        (b"1970-01-01T00:00:00Z", 0),
        (b"1970-01-01T00:00:00.5Z", 500_000_000),
        (b"1969-12-31T23:59:59.999999999Z", -1),
        (b"2026-11-23T10:00:00.1234567899+00:00", 1795428000_123456789),
        (b"2026-11-23T05:30:00-04:30", 1795428000_000000000),
    ],
)
def test_nanoseconds(time: bytes, moment: int) -> None:
    assert nanoseconds(time) == moment
