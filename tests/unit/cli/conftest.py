"""The command line on a state directory of the test's own, and a terminal."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.terminal import Terminal


@pytest.fixture
def command(state_directory: Path, engine_program: Path) -> Command:
    return Command(state_directory, program=engine_program)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()
