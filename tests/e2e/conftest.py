"""The installed command line, with a state directory that is gone afterwards with every process that served it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.support.disks import passable_directory
from tests.support.processes import end_all


class Wasmlet:
    """`wasmlet` as a user types it, in one state directory."""

    def __init__(self, state: Path, folder: Path) -> None:
        self.state = state
        self.folder = folder
        self.environment = {**os.environ, "WASMLET_STATE": str(state)}

    def __call__(
        self, *arguments: str | Path, status: int | None = 0, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end, and hold it to its exit status (None: any)."""
        result = subprocess.run(
            [sys.executable, "-m", "wasmlet", *map(str, arguments)],
            cwd=self.folder, env=self.environment, input=stdin, capture_output=True, timeout=50, check=False,
        )  # fmt: skip
        if status is not None:
            assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
        return result

    def start(
        self, *arguments: str | Path, output: IO[bytes] | None = None, through: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """Run it beside the test, with pipes, or with `output` for both its streams; `through` a command, if any."""
        return subprocess.Popen(
            [*through, sys.executable, "-m", "wasmlet", *map(str, arguments)],
            cwd=self.folder, env=self.environment,
            stdin=subprocess.PIPE, stdout=output or subprocess.PIPE, stderr=output or subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
def wasmlet(tmp_path: Path) -> Iterator[Wasmlet]:
    """The command line in an empty folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    with passable_directory() as parent:
        try:
            yield Wasmlet(parent / "state", folder)
        finally:
            end_all(parent)
