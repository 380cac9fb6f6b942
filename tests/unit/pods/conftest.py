"""Peers of pods."""

from collections.abc import AsyncIterator

import pytest

from tests.unit.pods.answering import Server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as server:
        yield server
