"""What a caller wants of a log, read as a kubelet reads it (kubelet-contract 7.3). Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wasmlet.base.errors import UserError

NANOSECONDS: Final = 1_000_000_000
INT64_BITS: Final = 63

RFC_3339: Final = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_INTEGER: Final = re.compile(r"[+-]?\d{1,19}", re.ASCII)

STREAMS: Final = {"All": None, "Stdout": b"stdout", "Stderr": b"stderr"}


class UnreadableOptionsError(UserError):
    """A parameter is no number, no time: 400."""


class InvalidOptionsError(UserError):
    """A parameter is out of its bounds, or contradicts another: 422."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """v1 PodLogOptions.

    Attributes:
        follow: Go on while the container runs.
        previous: The container's attempt before the present one.
        timestamps: Put the time before each line.
        since: Leave out lines before this; nanoseconds since the epoch, None takes all.
        tail_lines: Begin so many stored lines before the end; None takes all.
        limit_bytes: End after so many bytes, wherever that is; None never ends.
        stream: b"stdout", b"stderr"; None takes both.
    """

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since: int | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None
    stream: bytes | None = None


def parse_options(query: Mapping[str, Sequence[str]], *, now: float, split_streams: bool = False) -> LogOptions:
    """The options in a query; of a repeated parameter the first value counts.

    Args:
        query: Every value of each parameter.
        now: Seconds since the epoch, for sinceSeconds.
        split_streams: The gate PodLogsQuerySplitStreams: whether one stream alone may be asked for.

    Raises:
        UnreadableOptionsError: A value is not what its type says.
        InvalidOptionsError: A value is out of its bounds.
    """
    values = {name: each[0] for name, each in query.items() if each}
    if values.get("tail"):  # of old clients
        values["tailLines"] = values["tail"]
        if values["tail"] == "all":
            del values["tailLines"]
    tail_lines, limit_bytes, since_seconds = (
        _integer(values.get(name)) for name in ("tailLines", "limitBytes", "sinceSeconds")
    )
    since_time = _moment(values["sinceTime"]) if "sinceTime" in values else None
    _check(
        (tail_lines is None or tail_lines >= 0)
        and (limit_bytes is None or limit_bytes >= 1)
        and (since_seconds is None or since_seconds >= 1)
        and (since_seconds is None or since_time is None)
    )
    stream = _stream(values.get("stream"), has_tail=tail_lines is not None, split_streams=split_streams)
    since = since_time if since_seconds is None else int((now - since_seconds) * NANOSECONDS)
    return LogOptions(
        follow=_truth(values.get("follow")),
        previous=_truth(values.get("previous")),
        timestamps=_truth(values.get("timestamps")),
        since=since,
        tail_lines=tail_lines,
        limit_bytes=limit_bytes,
        stream=stream,
    )


def nanoseconds(time: bytes) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time.

    Raises:
        ValueError: It is no such time.
    """
    found = RFC_3339.fullmatch(time)
    if found is None:
        raise ValueError(f"not an RFC 3339 time: {time[:40]!r}")
    moment, fraction, zone = found.groups(default=b"")
    return _seconds(moment + zone) * NANOSECONDS + int(fraction[:9].ljust(9, b"0"))


@functools.lru_cache(maxsize=4096)
def _seconds(time: bytes) -> int:
    """Of a time without a fraction; a log has many lines in a second."""
    return round(datetime.fromisoformat(time.decode()).timestamp())


def _check(is_valid: bool) -> None:
    if not is_valid:
        raise InvalidOptionsError('{"message": "Invalid request."}', reason="Invalid")


def _unreadable() -> UnreadableOptionsError:
    return UnreadableOptionsError('{"message": "Unable to decode query."}', reason="BadRequest")


def _truth(value: str | None) -> bool:
    """As apimachinery converts query parameters: all but "0" and "false" is true, "" too."""
    return value is not None and value != "0" and value.lower() != "false"


def _integer(value: str | None) -> int | None:
    """An int64, written as Go's ParseInt takes it."""
    if value is None:
        return None
    if not _INTEGER.fullmatch(value) or (number := int(value)).bit_length() > INT64_BITS:
        raise _unreadable()
    return number


def _moment(value: str) -> int | None:
    """An RFC 3339 time; "" and "null" are the zero time, from which everything is."""
    if value in ("", "null"):
        return -(1 << INT64_BITS)
    try:
        return nanoseconds(value.encode())
    except (ValueError, OverflowError):
        raise _unreadable() from None


def _stream(value: str | None, *, has_tail: bool, split_streams: bool) -> bytes | None:
    if value is None:
        return None
    _check(value in STREAMS and (value == "All" or not has_tail))
    if value != "All" and not split_streams:
        raise UserError(
            f'unable to return the given log stream: "{value}". '
            "Please enable PodLogsQuerySplitStreams feature gate in kubelet"
        )
    return STREAMS[value]
