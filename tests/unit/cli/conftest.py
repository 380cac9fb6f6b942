"""The command line on a state directory of the test's own."""

from pathlib import Path

import pytest

from tests.support.command import Command


@pytest.fixture
def command(state_directory: Path, engine_program: Path) -> Command:
    return Command(state_directory, program=engine_program)
