"""Stored lines of a log → the bytes that `kubectl logs` shows (kubelet-contract 7.3 and 8). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from wasmlet.server.log_options import RFC_3339, LogOptions, nanoseconds

UTC_ZONES = (b"Z", b"+00:00", b"-00:00")


class LogOutput:
    """Turns one log into output; feed it all stored lines in their order."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._left = options.limit_bytes
        self._at_line_start = True

    def __repr__(self) -> str:
        return f"<LogOutput {self._options}, {self._left} bytes left>"

    @property
    def is_full(self) -> bool:
        """Whether limitBytes are reached: nothing will come any more."""
        return self._left == 0

    def format(self, stored: Iterable[bytes]) -> bytes:
        """The output of stored lines, which end in a newline unless they are torn. What is no line is left out."""
        output = b"".join([self._line(each) for each in stored])
        if self._left is not None:
            output = output[: self._left]
            self._left -= len(output)
        return output

    def _line(self, stored: bytes) -> bytes:
        """`{time} {stream} {tag}[:more tags] {content}`; of a partial line (P) the newline is not the guest's."""
        parts = stored.split(b" ", 3)
        if len(parts) < 4:
            return b""
        time, stream, tags, content = parts
        if stream not in (b"stdout", b"stderr") or not self._is_wanted(time, stream):
            return b""
        if tags.partition(b":")[0] == b"P":
            content = content.removesuffix(b"\n")
        if self._options.timestamps and self._at_line_start:
            content = _fixed(time) + b" " + content
        if content:
            self._at_line_start = content.endswith(b"\n")
        return content

    def _is_wanted(self, time: bytes, stream: bytes) -> bool:
        if self._options.since is None:
            is_new = RFC_3339.fullmatch(time) is not None
        else:
            try:
                is_new = nanoseconds(time) >= self._options.since
            except (ValueError, OverflowError):
                return False
        return is_new and self._options.stream in (None, stream)


def _fixed(time: bytes) -> bytes:
    """The time with a fraction of nine digits (RFC3339NanoFixed of cri-client)."""
    found = RFC_3339.fullmatch(time)
    assert found is not None
    moment, fraction, zone = found.groups(default=b"")
    return moment + b"." + fraction[:9].ljust(9, b"0") + (b"Z" if zone in UTC_ZONES else zone)
