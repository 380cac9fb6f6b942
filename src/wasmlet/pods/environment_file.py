"""Environment files (fileKeyRef, gate EnvFiles): `KEY='value'` lines that an init container wrote.

The strict subset of shell that the kubelet of 1.35 reads: values in single quotes, taken literally, over several lines
if need be; a comment may follow; blank lines and lines that begin with `#` are skipped; `KEY= 'value'` sets nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from wasmlet.base.errors import UserError

__all__ = ["find"]

BLANK = " \t"


def find(text: str, key: str) -> str | None:
    """The value of `key`, the first one that the file gives; None when it gives none.

    Raises:
        UserError: A line up to there is not in the format; the message names the line, never its content.
    """
    lines = enumerate((line.removesuffix("\r") for line in text.split("\n")), start=1)
    for number, raw in lines:
        line = raw.lstrip(BLANK)
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        _check_name(name, equals, number)
        if value.startswith((" ", "\t")):
            if name == key:
                return ""
            continue
        if not value.startswith("'"):
            raise _error(number, "value must be enclosed in single quotes")
        held = _quoted(value[1:], number, lines)
        if name == key:
            return held
    return None


def _quoted(rest: str, start: int, lines: Iterator[tuple[int, str]]) -> str:
    """The value that begins with `rest`, over as many lines as it takes."""
    number, held = start, []
    while "'" not in rest:
        held.append(rest)
        try:
            number, rest = next(lines)
        except StopIteration:
            message = f"invalid environment variable format starting at line {start}: unclosed single quote"
            raise UserError(message) from None
    last, _, after = rest.partition("'")
    after = after.lstrip(BLANK)
    if after and not after.startswith("#"):
        raise _error(number, "unexpected content after closing quote")
    return "\n".join([*held, last])


def _check_name(name: str, equals: str, number: int) -> None:
    if not equals:
        raise _error(number, "missing '='")
    if not name.rstrip(BLANK):
        raise _error(number, "empty variable name")
    if name != name.rstrip(BLANK):
        raise _error(number, "whitespace before '=' is not allowed")


def _error(number: int, text: str) -> UserError:
    return UserError(f"invalid environment variable format at line {number}: {text}")
