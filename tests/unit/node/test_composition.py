"""A node whose API server fails it, over real HTTP: it stays up where a kubelet does, and is whole again afterwards."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.fake_api import IMPATIENT, Authorities, Behaviour, FakeApi, status
from tests.support.waiting import eventually
from wasmlet.kube.client import Client, Patch
from wasmlet.kube.events import Recorder
from wasmlet.node import registration
from wasmlet.node.composition import Node
from wasmlet.node.objects import NODES
from wasmlet.node.settings import Settings

LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@contextlib.asynccontextmanager
async def running(client: Client, directory: Path) -> AsyncIterator[Node]:
    """A node with a quick pulse; its end would fail the test."""
    settings = Settings(
        name="n", directory=directory, pki_directory=directory / "pki", status_seconds=0.05, report_seconds=0.1,
        lease_seconds=1, requests_serving_certificate=False,
    )  # fmt: skip
    node = Node(settings, client, Recorder(client, host="n"))
    task = asyncio.get_running_loop().create_task(node.run())
    try:
        yield node
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def answers(response: Callable[[], web.Response], method: str = "", path: str = "") -> Behaviour:
    """Answer like that what fits."""

    async def behave(request: web.Request) -> web.StreamResponse | None:
        return response() if method in ("", request.method) and request.path.startswith(path) else None

    return behave


def beats(api: FakeApi) -> tuple[int, int]:
    """How many Lease renewals and statuses were taken so far."""
    return len([each for each in api.asked("PUT") if each.path.startswith(LEASES)]), len(api.asked("PATCH"))


def told(caplog: pytest.LogCaptureFixture, beginning: str) -> list[str]:
    return [text for each in caplog.records if (text := each.getMessage()).startswith(beginning)]


async def goes_on(api: FakeApi) -> None:
    leases, statuses = beats(api)
    await eventually(lambda: beats(api)[0] > leases + 1 and beats(api)[1] > statuses + 1, lambda: beats(api))


async def test_an_identity_that_is_refused_for_a_while(
    api: FakeApi, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(client, tmp_path) as node:
        await asyncio.wait_for(node.synced.wait(), 10)
        await goes_on(api)
        api.behaviours.append(answers(lambda: status(401, "Unauthorized", "Unauthorized")))
        api.cut()
        for what in ("lease renewal failed", "status not sent"):
            await eventually(lambda what=what: [each for each in told(caplog, what) if "credentials" in each])  # type: ignore[misc]
        api.behaviours.clear()
        await goes_on(api)


async def test_a_cordon_is_told_and_the_loop_shows_that_it_lives(
    api: FakeApi, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(client, tmp_path) as node:
        await asyncio.wait_for(node.synced.wait(), 10)
        looked_at = node.looked_at
        await eventually(lambda: node.looked_at > looked_at)
        told: list[str] = []
        monkeypatch.setattr(node, "_record", lambda event, **_: told.append(event.message))
        for is_cordoned in (True, False):
            await client.patch(NODES, "n", {"spec": {"unschedulable": is_cordoned}}, kind=Patch.MERGE)
            await eventually(lambda: told, told)
            assert [each for each in told if "chedulable" in each] == [
                f"Node n status is now: Node{'Not' if is_cordoned else ''}Schedulable"
            ]
            told.clear()


@pytest.mark.parametrize("first", ["not allowed", "there and gone", "slow", "failing"])
async def test_a_registration_is_tried_until_it_is_done(
    api: FakeApi, client: Client, tmp_path: Path, first: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(_: web.Request) -> web.StreamResponse | None:
        await asyncio.sleep(0.1)
        return None

    faults: dict[str, list[Behaviour]] = {
        "not allowed": [answers(lambda: status(403, "Forbidden", "nodes is forbidden"), path="/api/v1/nodes")],
        "there and gone": [
            answers(lambda: status(409, "AlreadyExists", "there"), "POST", "/api/v1/nodes"),
            answers(lambda: status(404, "NotFound", "gone"), "GET", "/api/v1/nodes"),
        ],
        "slow": [slow],
        "failing": [answers(lambda: web.Response(status=503, text="no leader"))],
    }
    api.behaviours += faults[first]
    async with running(client, tmp_path) as node:
        if first != "slow":
            await eventually(lambda: told(caplog, "registration failed"))
            assert node.latest is None
            api.behaviours.clear()
        await asyncio.wait_for(node.synced.wait(), 20)
        await goes_on(api)


async def test_the_lease_goes_on_while_statuses_are_refused(
    api: FakeApi, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    message = 'nodes "n" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/a'
    async with running(client, tmp_path) as node:
        await asyncio.wait_for(node.synced.wait(), 10)
        api.behaviours.append(answers(lambda: status(403, "Forbidden", message), "PATCH"))
        leases, _ = beats(api)
        await eventually(lambda: beats(api)[0] > leases + 2)
        assert [each for each in caplog.records if message in each.getMessage()]
        api.behaviours.clear()
        await goes_on(api)


async def test_a_server_that_is_not_trusted_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registration, "MAX_RETRY_SECONDS", 0.1)
    authorities, strangers = Authorities.make(), Authorities.make()
    async with FakeApi.running(tls=authorities.server) as api:
        client = Client(strangers.access(api.url), settings=IMPATIENT)
        try:
            async with running(client, tmp_path) as node:
                await eventually(lambda: [each for each in caplog.records if "is not trusted" in each.getMessage()])
                assert "this machine's clock" in caplog.text
                await client.rotate(authorities.access(api.url))
                await asyncio.wait_for(node.synced.wait(), 20)
                await goes_on(api)
        finally:
            await client.close()
