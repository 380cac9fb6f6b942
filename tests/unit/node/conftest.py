"""A fake API server, and a client with short waits."""

from collections.abc import AsyncIterator

import pytest

from tests.support.fake_api import FakeApi
from wasmlet.kube.client import Client
from wasmlet.kube.settings import Settings

SETTINGS = Settings(
    queries_per_second=10_000,
    burst=1000,
    connect_timeout_seconds=5,
    timeout_seconds=5,
    attempts=3,
    retry_delay_seconds=0.01,
    watch_retry_seconds=(0.01, 0.05),
)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi.running() as api:
        yield api


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    client = Client(api.access, settings=SETTINGS)
    yield client
    await client.close()
