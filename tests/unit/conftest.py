"""A fake API server, and a client with short waits."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_api import IMPATIENT, FakeApi
from wasmlet.kube.client import Client


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi.running() as api:
        yield api


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    client = Client(api.access, settings=IMPATIENT)
    yield client
    await client.close()
