"""Fixtures for every room: where state goes, the engine's program, an agent in this process."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.agent import Agent, running_agent
from tests.support.disks import passable_directory
from tests.support.processes import end_all
from wasmlet.base.errors import UserError
from wasmlet.sandbox.program import find_engine_program

# How long an example takes, and how long it is made, says how busy the machine is.
hypothesis.settings.register_profile("wasmlet", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("wasmlet")


@pytest.fixture
def state_directory() -> Iterator[Path]:
    """A state directory of the test's own; no process that was started on it outlives the test."""
    with passable_directory() as parent:
        directory = parent / "state"
        directory.mkdir()
        yield directory
        end_all(directory)


@pytest.fixture(scope="session")
def engine_program() -> Path:
    """The built engine."""
    try:
        return find_engine_program()
    except UserError as error:
        pytest.fail(f"{error}\nfor tests: `make test` builds it, or `cargo build --release` and set WASMLET_ENGINE")


@pytest.fixture
async def agent(state_directory: Path, engine_program: Path) -> AsyncIterator[Agent]:
    """The rooms of an agent in this process, on a new state directory."""
    async with running_agent(state_directory, program=engine_program) as agent:
        yield agent
