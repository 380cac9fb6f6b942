"""Moments: seconds since the epoch inside, RFC 3339 in UTC outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Gives the present as seconds since the epoch; tests pass their own."""

system_clock: Clock = time.time


def to_text(moment: float) -> str:
    """RFC 3339 with second precision, as metav1.Time is written: `2026-11-23T10:00:00Z`."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_text(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time with any fraction (nanoseconds are cut to microseconds).

    Raises:
        ValueError: It is not such a time.
    """
    head, dot, rest = text.partition(".")
    if dot:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        text = f"{head}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}"
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return moment.timestamp()
