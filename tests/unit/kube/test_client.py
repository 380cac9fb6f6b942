"""Requests over real HTTP and TLS: types, queries, errors, second attempts, limits, new credentials."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import subprocess
import sys
import time
from typing import Any

import pytest
from aiohttp import web

from tests.support.fake_api import IMPATIENT, FakeApi, status, times
from tests.support.waiting import eventually
from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.kube.client import Client, Patch
from wasmlet.kube.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InvalidError,
    OutdatedError,
    UnauthorizedError,
    UnreachableError,
)
from wasmlet.kube.kubeconfig import Access
from wasmlet.kube.resources import CONFIG_MAPS, PODS, SECRETS
from wasmlet.kube.types import ConfigMap, ObjectMeta, Pod
from wasmlet.kube.watch import Synced, Unavailable, watch_resource


def pod(name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": {"containers": [{"name": "main", "image": "x"}]},
    }


# --- objects ----------------------------------------------------------------------------------------------------------


async def test_the_life_of_an_object(api: FakeApi, client: Client) -> None:
    made = await client.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="a"), data={"k": "1"}), namespace="n")
    assert (made.metadata.namespace, made.data) == ("n", {"k": "1"})
    assert json.loads(api.seen[-1].body)["apiVersion"] == "v1"
    with pytest.raises(AlreadyExistsError):
        await client.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="a")), namespace="n")
    patched = await client.patch(CONFIG_MAPS, "a", {"data": {"j": "2"}}, kind=Patch.MERGE, namespace="n")
    assert patched.data == {"k": "1", "j": "2"}
    made.data = {"k": "9"}
    with pytest.raises(OutdatedError):
        await client.update(CONFIG_MAPS, made, namespace="n")
    made.metadata.resource_version = patched.metadata.resource_version
    assert (await client.update(CONFIG_MAPS, made, namespace="n")).data == {"k": "9"}
    assert (await client.get(CONFIG_MAPS, "a", namespace="n")).data == {"k": "9"}
    with pytest.raises(OutdatedError):
        await client.delete(CONFIG_MAPS, "a", namespace="n", uid="another")
    await client.delete(CONFIG_MAPS, "a", namespace="n", uid=made.metadata.uid, grace_seconds=0)
    assert json.loads(api.seen[-1].body) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": made.metadata.uid},
        "gracePeriodSeconds": 0,
    }
    with pytest.raises(NotFoundError, match='cannot get configmaps n/a: configmaps "a" not found'):
        await client.get(CONFIG_MAPS, "a", namespace="n")


@pytest.mark.parametrize("kind", list(Patch))
async def test_a_patch_says_what_it_is(api: FakeApi, client: Client, kind: Patch) -> None:
    await api.put("pods", pod("web"))
    status = {"status": {"phase": "Running"}}
    await client.patch(PODS, "web", status, kind=kind, namespace="default", subresource="status")
    seen = api.seen[-1]
    assert (seen.method, seen.path) == ("PATCH", "/api/v1/namespaces/default/pods/web/status")
    assert seen.headers["Content-Type"] == kind.value
    assert seen.headers["User-Agent"].startswith("wasmlet/")


async def test_a_list_is_read_to_its_end(api: FakeApi, client: Client) -> None:
    for number in range(8):
        await api.put("pods", pod(f"p{number}", labels={"app": "a" if number else "b"}))
    await api.put("pods", pod("else", namespace="other"))
    listed = await client.list(PODS, namespace="default")
    assert [each.metadata.name for each in listed.items] == [f"p{number}" for number in range(8)]
    assert listed.resource_version == str(api.version)
    assert [each.query.get("continue") for each in api.seen] == [None, f"3-{api.version}", f"6-{api.version}"]
    assert len((await client.list(PODS)).items) == 9
    assert len((await client.list(PODS, label_selector="app=a")).items) == 7
    api.seen.clear()
    assert len((await client.list(PODS, resource_version="0")).items) == 9
    await client.list(PODS, resource_version="7", field_selector="metadata.name=p1")
    assert [each.query.get("resourceVersionMatch") for each in api.seen] == [None, "NotOlderThan"]


async def test_one_broken_object_hides_no_other(api: FakeApi, client: Client) -> None:
    for name in ("a", "b", "c"):
        await api.put("pods", pod(name))
    await api.put("pods", pod("b", labels=None) | {"spec": {"containers": 7}})
    await api.put("pods", pod("c") | {"spec": {"containers": None, "volumes": None}})
    listed = await client.list(PODS)
    assert [each.metadata.name for each in listed.items] == ["a", "c"]
    assert [each.metadata.name for each in listed.broken] == ["b"]


async def test_raw_requests(api: FakeApi, client: Client) -> None:
    assert b"gitVersion" in await client.raw("GET", "/version")


# --- the server's moods -----------------------------------------------------------------------------------------------


async def test_later_means_later(api: FakeApi, client: Client) -> None:
    def busy() -> web.Response:
        return status(429, "TooManyRequests", "busy", headers={"Retry-After": "0"})

    api.behaviours.append(times(2, busy))
    await client.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="a")), namespace="n")
    assert len(api.seen) == 3
    api.behaviours.append(times(3, lambda: status(503, "ServiceUnavailable", "away", headers={"Retry-After": "0"})))
    with pytest.raises(RetryableError, match="away"):
        await client.delete(CONFIG_MAPS, "a", namespace="n")
    assert len(api.seen) == 6


async def test_the_time_that_the_server_names_is_kept(api: FakeApi, client: Client) -> None:
    api.behaviours.append(times(1, lambda: status(429, "TooManyRequests", "", headers={"Retry-After": "1"})))
    began = time.monotonic()
    await client.list(PODS)
    assert 1.0 <= time.monotonic() - began < 20
    api.behaviours.append(times(1, lambda: status(429, "TooManyRequests", "", headers={"Retry-After": "60"})))
    with pytest.raises(RetryableError) as raised:
        await client.list(PODS)
    assert raised.value.retry_after_seconds == 60


async def test_only_reading_is_done_twice_after_a_failure(api: FakeApi, client: Client) -> None:
    api.behaviours.append(times(2, lambda: status(500, "InternalError", "etcd")))
    assert (await client.list(PODS)).items == ()
    assert len(api.seen) == 3
    api.seen.clear()
    api.behaviours.append(times(1, lambda: web.Response(status=502, text="<html>bad gateway</html>")))
    with pytest.raises(RetryableError, match="answered with status 502"):
        await client.patch(CONFIG_MAPS, "a", {}, namespace="n")
    assert len(api.seen) == 1


@pytest.mark.parametrize(("code", "error"), [(403, ForbiddenError), (422, InvalidError), (401, UnauthorizedError)])
async def test_a_refusal_is_final(api: FakeApi, client: Client, code: int, error: type[WasmletError]) -> None:
    api.behaviours.append(times(1, lambda: status(code, "", "no")))
    with pytest.raises(error):
        await client.list(PODS)
    assert len(api.seen) == 1


async def test_a_cut_line(api: FakeApi, client: Client) -> None:
    async def cut(request: web.Request) -> web.StreamResponse | None:
        assert request.transport is not None
        request.transport.abort()
        await asyncio.sleep(5)
        return None

    api.behaviours.append(cut)
    with pytest.raises(RetryableError, match=r"the connection to 127.0.0.1:\d+ broke"):
        await client.get(PODS, "a", namespace="n")
    with pytest.raises(RetryableError, match="broke"):
        await client.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="a")), namespace="n")


async def test_nobody_is_there() -> None:
    client = Client(Access(source="the file", server="http://127.0.0.1:1"), settings=IMPATIENT)
    with pytest.raises(
        RetryableError, match=r"cannot list pods: cannot connect to the API server 127\.0\.0\.1:1: connection refused"
    ) as raised:
        await client.list(PODS)
    assert raised.value.fault.value == "cluster"
    await client.close()


async def test_an_outage_is_told_at_its_beginning_and_at_its_end(
    api: FakeApi, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tasks, other = Tasks(), client.sharing(queries_per_second=None)
    cut = True

    async def behave(request: web.Request) -> web.StreamResponse | None:
        if cut:
            assert request.transport is not None
            request.transport.abort()
            await asyncio.sleep(5)
        return None

    async def follow() -> None:
        async with contextlib.aclosing(watch_resource(client, PODS)) as events:
            async for each in events:
                seen.append(each)  # noqa: PERF401  # it is endless

    seen: list[object] = []
    api.behaviours.append(behave)
    assert client.level(logging.INFO) == logging.INFO
    tasks.start(follow(), name="watch")
    await eventually(lambda: sum(isinstance(each, Unavailable) for each in seen) > 2, seen)
    with pytest.raises(UnreachableError):
        await other.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="a")), namespace="n")
    assert client.level(logging.INFO) == other.level(logging.ERROR) == logging.DEBUG
    cut = False
    await eventually(lambda: Synced() in seen, seen)
    await tasks.close()
    told = [each.getMessage() for each in caplog.records if each.levelno > logging.DEBUG]
    beginning, end = told
    assert beginning.startswith("API server away: cannot list pods: the connection to 127.0.0.1")
    assert end == "API server back"
    assert "watch interrupted" in caplog.text
    assert client.level(logging.INFO) == logging.INFO


async def test_an_answer_that_never_comes_and_one_that_never_ends(api: FakeApi) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if "slow" not in request.path:
            await asyncio.sleep(30)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10_000)

    api.behaviours.append(drip)
    settings = dataclasses.replace(IMPATIENT, timeout_seconds=0.2, max_body_bytes=100_000, attempts=1)
    client = Client(api.access, settings=settings)
    with pytest.raises(RetryableError, match=r"did not answer within 0\.2 s"):
        await client.list(PODS)
    with pytest.raises(WasmletError, match="more than 100000 bytes"):
        await client.raw("GET", "/slow")
    await client.close()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"items": 3}', b"\xff", b"{}"])
async def test_an_answer_that_is_no_list(api: FakeApi, client: Client, content: bytes) -> None:
    api.behaviours.append(times(9, lambda: web.Response(body=content)))
    with pytest.raises(RetryableError, match="is not understood"):
        await client.list(PODS)
    if b"{" not in content:
        with pytest.raises(WasmletError, match="is not understood"):
            await client.get(PODS, "a", namespace="n")


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_requests_come_at_the_agreed_rate(api: FakeApi) -> None:
    client = Client(api.access, settings=dataclasses.replace(IMPATIENT, queries_per_second=20, burst=5))
    began = time.monotonic()
    await asyncio.gather(*(client.list(PODS) for _ in range(10)))
    assert time.monotonic() - began >= 0.2
    await client.close()


async def test_heartbeats_do_not_wait_for_the_others(api: FakeApi) -> None:
    client = Client(api.access, settings=dataclasses.replace(IMPATIENT, queries_per_second=0.001, burst=1))
    heartbeats = client.sharing(queries_per_second=None)
    await client.list(PODS)
    async with asyncio.timeout(20):
        for _ in range(3):
            await heartbeats.list(PODS)
    await client.close()
    with pytest.raises(RetryableError, match="was closed"):
        await heartbeats.list(PODS)


# --- TLS and credentials ----------------------------------------------------------------------------------------------


async def test_no_secret_is_written_anywhere(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    access = dataclasses.replace(api.access, token="s3cret-token")
    client = Client(access, settings=IMPATIENT)
    body = SECRETS.type(metadata=ObjectMeta(name="a"), string_data={"k": "s3cret-value"})
    api.behaviours.append(times(9, lambda: status(500, "InternalError", "broken")))
    errors = []
    for request in (client.list(SECRETS), client.create(SECRETS, body, namespace="n")):
        with pytest.raises(RetryableError) as raised:
            await request
        errors.append(repr(raised.value) + str(raised.value) + repr(raised.value.__cause__))
    assert "s3cret" not in caplog.text + "".join(errors) + repr(client) + repr(access)
    await client.close()


def test_a_run_without_a_cluster_pays_nothing() -> None:
    modules = ("client", "watch", "events", "objects_cache", "tokens", "kubeconfig")
    program = f"import sys; from wasmlet.kube import {', '.join(modules)}; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_types_of_answers(api: FakeApi, client: Client) -> None:
    await api.put("pods", pod("web"))
    found = await client.get(PODS, "web", namespace="default")
    assert isinstance(found, Pod)
    assert found.spec.containers[0].image == "x"
