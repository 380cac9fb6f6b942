"""Tables and JSON for people and programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])

BROKEN_PIPE_STATUS = 141
"""128 + SIGPIPE, as a shell has it for a program that nobody reads any more."""


def open_standard_streams() -> None:
    """A caller may have closed them; then the next file that is opened would be taken for one of them."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))  # noqa: SIM115


def abandon_stdout() -> None:
    """Nobody reads stdout any more: what is left in its buffer must not fail once more at the interpreter's end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def output_option(function: F) -> F:
    """`--output table|json` for a command that lists."""
    choice = click.Choice(["table", "json"])
    return click.option("-o", "--output", type=choice, default="table", show_default=True)(function)


def print_json(value: object) -> None:
    """`value` as indented JSON on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def shown_size(count: int) -> str:
    """A number of bytes for a person: 51.3 kB, 2.6 MB."""
    return f"{count / 1_000_000:.1f} MB" if count >= 1_000_000 else f"{count / 1000:.1f} kB"


class Table:
    """Columns as kubectl prints them: upper-case headings, three spaces between, nothing cut."""

    def __init__(self, *headings: str) -> None:
        self._rows: list[tuple[str, ...]] = [headings]

    def add(self, *cells: str) -> None:
        """Add a row."""
        self._rows.append(cells)

    def print(self) -> None:
        """Write the table to stdout."""
        widths = [max(len(row[column]) for row in self._rows) for column in range(len(self._rows[0]))]
        for row in self._rows:
            click.echo("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
