"""Health checks."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.agent import Agent
from tests.support.waiting import eventually
from tests.unit.server.kubelet_api import Api, Time, served
from wasmlet.server.health import Health, HealthPort


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def api(agent: Agent, tmp_path: Path, time: Time) -> AsyncIterator[Api]:
    health = Health(last_loop=lambda: 1000.0, sync_seconds=200, now=time)
    async with served(tmp_path, agent.dispatch, agent.hub, health=health) as api:
        yield api


@pytest.mark.parametrize("path", ["/healthz", "/healthz/ping", "/healthz/log", "/healthz/syncloop"])
async def test_all_is_well(api: Api, path: str) -> None:
    assert await api.get(path) == (200, "ok")


async def test_each_check_is_named(api: Api) -> None:
    text = "[+]ping ok\n[+]log excluded: ok\n[+]syncloop ok\nhealthz check passed\n"
    assert await api.get("/healthz?verbose&exclude=log") == (200, text)


async def test_an_unknown_check(api: Api) -> None:
    assert (await api.get("/healthz/mood"))[0] == 404


async def test_a_loop_that_hangs(api: Api, time: Time) -> None:
    time.now += 400
    assert (await api.get("/healthz"))[0] == 200
    time.now += 1
    text = "[+]ping ok\n[+]log ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n"
    assert await api.get("/healthz") == (500, text)
    assert await api.get("/healthz/ping") == (200, "ok")
    text = "internal server error: sync Loop took longer than expected\n"
    assert await api.get("/healthz/syncloop") == (500, text)


def test_the_bound_is_five_minutes_at_least() -> None:
    time = Time()
    health = Health(last_loop=lambda: 1000.0, sync_seconds=1, now=time)
    time.now += 300
    assert health._sync_loop() == ""
    time.now += 1
    assert health._sync_loop() != ""


def test_without_a_loop_an_answer_is_proof_enough() -> None:
    assert Health()._sync_loop() == ""


@contextlib.asynccontextmanager
async def running(port: HealthPort) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(port.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_loopback_answers_everybody_and_nothing_else(time: Time) -> None:
    port = HealthPort(Health(last_loop=lambda: 1000.0, now=time), 0)
    async with running(port), aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{await eventually(lambda: port.port)}"
        for path, status in (("/healthz", 200), ("/healthz/syncloop", 200), ("/pods", 404), ("/configz", 404)):
            async with session.get(base + path) as response:
                assert response.status == status
        time.now += 301
        async with session.get(f"{base}/healthz") as response:
            assert response.status == 500
    assert port.port == 0


async def test_a_taken_port_is_waited_for(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = HealthPort(Health(now=time), other.getsockname()[1], retry_seconds=0.01)
        async with running(port):
            await eventually(lambda: caplog.records)
            assert port.port == 0
            other.close()
            await eventually(lambda: port.port)
    assert [each.getMessage() for each in caplog.records] == ["healthz not served"]
