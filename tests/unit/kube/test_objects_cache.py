"""ConfigMaps and Secrets by watches: first answers, changes, refusals, bounds."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.support.fake_api import FakeApi, status, times
from tests.support.waiting import eventually
from wasmlet.base.errors import NotFoundError, RetryableError
from wasmlet.kube.client import Client
from wasmlet.kube.objects import Objects
from wasmlet.kube.objects_cache import CacheSettings, ClusterObjects

SETTINGS = CacheSettings(
    max_watches=3, poll_seconds=0.1, forbidden_seconds=0.6, absent_seconds=0.15, answer_seconds=5.0
)


class Changes(list[str]):
    """The uids that were told."""


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
async def objects(client: Client, changes: Changes) -> AsyncIterator[ClusterObjects]:
    objects = ClusterObjects(client, on_change=changes.append, settings=SETTINGS)
    yield objects
    await objects.close()


def config(name: str = "a", value: str = "1", **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "n"}, "data": {"k": value}, **more}


def fits_the_seam(objects: ClusterObjects) -> Objects:
    """For mypy."""
    return objects


async def test_an_object_is_watched_from_its_first_use_to_its_last(
    api: FakeApi, objects: ClusterObjects, changes: Changes
) -> None:
    await api.put("configmaps", config())
    objects.acquire("p", "ConfigMap", "n", "a")
    objects.acquire("p", "ConfigMap", "n", "a")
    objects.acquire("q", "ConfigMap", "n", "a")
    assert (await objects.config_map("n", "a")).data == {"k": "1"}
    await eventually(lambda: api.watching)
    assert [each.query.get("fieldSelector") for each in api.seen] == ["metadata.name=a"] * 2
    assert "resourceVersion" not in api.seen[0].query
    assert changes == []
    await api.put("configmaps", config(value="2"))
    await eventually(lambda: len(changes) == 2)
    assert set(changes) == {"p", "q"}
    assert (await objects.config_map("n", "a")).data == {"k": "2"}
    objects.release("p")
    assert objects.watches == 1
    objects.release("q")
    objects.release("q")
    await eventually(lambda: objects.watches == 0 and not api.watching)
    assert repr(objects) == "<ClusterObjects 0 objects, 0 watches>"


async def test_what_nobody_uses_is_read_each_time(api: FakeApi, objects: ClusterObjects) -> None:
    value = base64.b64encode(b"s").decode()
    await api.put("secrets", config(value=value))
    assert (await objects.secret("n", "a")).data == {"k": value}
    await objects.secret("n", "a")
    assert [each.path for each in api.seen] == ["/api/v1/namespaces/n/secrets/a"] * 2
    with pytest.raises(NotFoundError, match=r'^secret "b" not found$') as raised:
        await objects.secret("n", "b")
    assert raised.value.reason == "NotFound"


async def test_an_object_that_comes_later(api: FakeApi, objects: ClusterObjects, changes: Changes) -> None:
    objects.acquire("p", "ConfigMap", "n", "a")
    began = asyncio.get_running_loop().time()
    with pytest.raises(NotFoundError, match=r'^configmap "a" not found$') as raised:
        await objects.config_map("n", "a")
    assert raised.value.reason == "NotFound"
    assert asyncio.get_running_loop().time() - began >= 0.1
    await eventually(lambda: api.watching)
    await api.put("configmaps", config())
    await eventually(lambda: changes == ["p"])
    assert (await objects.config_map("n", "a")).data == {"k": "1"}
    await api.remove("configmaps", "a", namespace="n")
    await eventually(lambda: changes == ["p", "p"])
    with pytest.raises(NotFoundError):
        await objects.config_map("n", "a")


async def test_an_object_that_comes_at_the_last_moment(api: FakeApi, objects: ClusterObjects, changes: Changes) -> None:
    objects.acquire("p", "ConfigMap", "n", "a")
    reading = asyncio.gather(objects.config_map("n", "a"))
    await eventually(lambda: api.watching)
    await api.put("configmaps", config())
    assert (await reading)[0].data == {"k": "1"}
    assert changes == []


async def test_an_immutable_object_is_read_once(api: FakeApi, objects: ClusterObjects) -> None:
    await api.put("configmaps", config(immutable=True))
    objects.acquire("p", "ConfigMap", "n", "a")
    await objects.config_map("n", "a")
    await eventually(lambda: objects.watches == 0)
    assert [("watch" in each.query) for each in api.seen] == [False]
    assert (await objects.config_map("n", "a")).immutable
    assert len(api.seen) == 1


async def test_the_authorizer_may_need_a_moment(api: FakeApi, objects: ClusterObjects, changes: Changes) -> None:
    await api.put("secrets", config())
    api.behaviours.append(times(2, lambda: status(403, "Forbidden", "no relationship found")))
    objects.acquire("p", "Secret", "n", "a")
    assert (await objects.secret("n", "a")).metadata.name == "a"
    assert changes == []


async def test_a_lasting_refusal_is_told(api: FakeApi, objects: ClusterObjects, changes: Changes) -> None:
    await api.put("secrets", config())
    api.behaviours.append(times(999, lambda: status(403, "Forbidden", "no relationship found")))
    objects.acquire("p", "Secret", "n", "a")
    for _ in range(2):
        with pytest.raises(RetryableError, match="no relationship found") as raised:
            await objects.secret("n", "a")
        assert raised.value.reason == "Forbidden"
    api.behaviours.clear()
    objects.acquire("q", "Secret", "n", "a")  # asks anew, at once
    assert (await objects.secret("n", "a")).metadata.name == "a"
    assert objects.watches == 1


async def test_what_was_read_stays_good(api: FakeApi, objects: ClusterObjects, changes: Changes) -> None:
    await api.put("configmaps", config())
    objects.acquire("p", "ConfigMap", "n", "a")
    await objects.config_map("n", "a")
    await eventually(lambda: api.watching)
    seen = len(api.seen)
    api.behaviours.append(times(999, lambda: status(500, "InternalError", "")))
    api.cut()
    await eventually(lambda: len(api.seen) > seen + 2)
    assert (await objects.config_map("n", "a")).data == {"k": "1"}
    await api.put("configmaps", config(value="2"))
    api.behaviours.clear()
    await eventually(lambda: changes == ["p"])


async def test_a_server_that_does_not_answer(api: FakeApi, client: Client) -> None:
    async def hang(request: web.Request) -> web.StreamResponse | None:
        await asyncio.sleep(30)
        return None

    api.behaviours.append(hang)
    objects = ClusterObjects(client, settings=CacheSettings(answer_seconds=0.1))
    objects.acquire("p", "ConfigMap", "n", "a")
    with pytest.raises(RetryableError, match="is not known yet"):
        await objects.config_map("n", "a")
    await objects.close()


async def test_beyond_the_bound_objects_are_polled(api: FakeApi, objects: ClusterObjects, changes: Changes) -> None:
    for name in "abcde":
        await api.put("configmaps", config(name))
        objects.acquire("p" + name, "ConfigMap", "n", name)
    for name in "abcde":
        assert (await objects.config_map("n", name)).data == {"k": "1"}
    await eventually(lambda: len(api.watching) == 3)
    assert objects.watches == 3
    for name in "ae":
        await api.put("configmaps", config(name, value="2"))
    await eventually(lambda: set(changes) == {"pa", "pe"})
    assert (await objects.config_map("n", "e")).data == {"k": "2"}
    await api.remove("configmaps", "d", namespace="n")
    await eventually(lambda: "pd" in changes)
    # A place that gets free is taken.
    objects.release("pa")
    await eventually(lambda: any(each.query.get("fieldSelector") in ("metadata.name=d", "metadata.name=e")
                                 for each in api.asked(watch=True)))  # fmt: skip


async def test_a_pod_that_cannot_be_told_harms_nobody(
    api: FakeApi, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    told = []

    def tell(uid: str) -> None:
        told.append(uid)
        raise LookupError(uid)

    objects = ClusterObjects(client, on_change=tell, settings=SETTINGS)
    await api.put("configmaps", config())
    objects.acquire("p", "ConfigMap", "n", "a")
    await objects.config_map("n", "a")
    await eventually(lambda: api.watching)
    for value in "23":
        await api.put("configmaps", config(value=value))
    await eventually(lambda: told == ["p", "p"])
    assert "telling a pod of a change failed" in caplog.text
    await objects.close()
