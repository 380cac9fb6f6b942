"""Reflecting a server that forgets, cuts, stays silent and lies."""

import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tests.support.fake_api import IMPATIENT, FakeApi, event, status, times
from tests.support.waiting import eventually
from tests.unit.kube.test_client import pod
from wasmlet.base.tasks import Tasks
from wasmlet.kube.client import Client
from wasmlet.kube.errors import ForbiddenError
from wasmlet.kube.resources import PODS, SECRETS
from wasmlet.kube.watch import Added, Deleted, Modified, Synced, Unavailable, watch_resource


class Watcher:
    """What a watch told, in short: `+name`, `~name`, `-name`, `=` (synced), `!` (unavailable)."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.objects: dict[str, Any] = {}
        self.errors: list[Exception] = []

    def take(self) -> list[str]:
        told, self.told = self.told, []
        return told

    async def follow(self, client: Client, **arguments: Any) -> None:
        async with contextlib.aclosing(watch_resource(client, PODS, **arguments)) as events:
            async for each in events:
                match each:
                    case Added(found) | Modified(found):
                        self.told.append(("+" if isinstance(each, Added) else "~") + found.metadata.name)
                        self.objects[found.metadata.uid] = found
                    case Deleted(found):
                        self.told.append(f"-{found.metadata.name}")
                        del self.objects[found.metadata.uid]
                    case Synced():
                        self.told.append("=")
                    case Unavailable(error):
                        self.told.append("!")
                        self.errors.append(error)

    async def until(self, *expected: str) -> None:
        await eventually(lambda: len(self.told) >= len(expected), self.told)
        assert self.take() == list(expected)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await tasks.close()


@pytest.fixture
async def watcher(api: FakeApi, client: Client, tasks: Tasks) -> Watcher:
    """Has seen pods a and b."""
    watcher = Watcher()
    await api.put("pods", pod("a"))
    await api.put("pods", pod("b"))
    tasks.start(watcher.follow(client), name="watch")
    await watcher.until("+a", "+b", "=")
    await eventually(lambda: api.watching)
    await api.bookmark()
    await asyncio.sleep(0.02)  # a watch that has not said anything yet has failed when it ends
    return watcher


async def test_changes_come_as_they_happen(api: FakeApi, watcher: Watcher) -> None:
    await api.put("pods", pod("c"))
    await api.put("pods", pod("a", labels={"x": "y"}))
    await api.remove("pods", "b", namespace="default")
    await watcher.until("+c", "~a", "-b")
    query = api.asked(watch=True)[0].query
    assert query["allowWatchBookmarks"] == "true"
    assert 300 <= int(query["timeoutSeconds"]) <= 600
    assert api.asked(watch=False)[0].query["resourceVersion"] == "0"


async def test_selectors_choose(api: FakeApi, client: Client, tasks: Tasks) -> None:
    watcher = Watcher()
    for name, node in (("a", "here"), ("b", "there")):
        await api.put("pods", pod(name) | {"spec": {"nodeName": node}})
    selectors = {"field_selector": "spec.nodeName=here", "label_selector": "", "namespace": "default"}
    tasks.start(watcher.follow(client, **selectors), name="watch")
    await watcher.until("+a", "=")
    await eventually(lambda: api.watching)
    await api.put("pods", pod("c") | {"spec": {"nodeName": "there"}})
    await api.put("pods", pod("d") | {"spec": {"nodeName": "here"}})
    await watcher.until("+d")
    assert {each.path for each in api.seen} == {"/api/v1/namespaces/default/pods"}


async def test_a_cut_watch_goes_on_where_it_was(api: FakeApi, watcher: Watcher) -> None:
    await api.put("pods", pod("c"))
    await watcher.until("+c")
    seen = len(api.seen)
    api.cut()
    await api.put("pods", pod("d"))
    await watcher.until("+d")
    assert [("watch" in each.query) for each in api.seen[seen:]] == [True]


async def test_a_cut_in_the_middle_of_an_event_loses_nothing(api: FakeApi, watcher: Watcher) -> None:
    await api.bookmark()
    await api.send(event("ADDED", pod("half", uid="h", resourceVersion=str(api.version + 5)))[:60])
    await asyncio.sleep(0.02)
    api.cut()
    await api.put("pods", pod("c"))
    await watcher.until("+c")


async def test_a_bookmark_moves_the_place_to_go_on(api: FakeApi, watcher: Watcher) -> None:
    api.version += 50
    await api.bookmark()
    await asyncio.sleep(0.02)
    api.cut()
    await eventually(lambda: len(api.asked(watch=True)) == 2)
    assert api.seen[-1].query["resourceVersion"] == str(api.version)
    assert watcher.take() == []


@pytest.mark.parametrize("how", ["while watching", "while away"])
async def test_what_the_server_forgot_is_listed_again(api: FakeApi, watcher: Watcher, how: str) -> None:
    uid = api._of("pods").objects["default", "a"]["metadata"]["uid"]
    async with api._news:  # nobody is told of these
        api._of("pods").objects.clear()
        api.version += 1
        for name, own in (("a", uid), ("b", "another"), ("c", "third")):
            document = pod(name, uid=own, resourceVersion=str(api.version))
            api._of("pods").objects["default", name] = document
    if how == "while away":
        api.behaviours.append(times(1, lambda: status(410, "Expired", "too old")))
        api.cut()
    else:
        await api.forget()
    await watcher.until("-b", "~a", "+b", "+c", "=")
    assert {each.metadata.uid for each in watcher.objects.values()} == {uid, "another", "third"}
    await eventually(lambda: api.watching)
    await api.put("pods", pod("d"))
    await watcher.until("+d")
    listing = api.asked(watch=False)[-1].query
    assert listing["resourceVersionMatch"] == "NotOlderThan"


async def test_what_has_not_changed_is_not_told_again(api: FakeApi, watcher: Watcher) -> None:
    await api.forget()
    await watcher.until("=")


@pytest.mark.parametrize(
    "answer",
    [
        lambda: status(500, "InternalError", "etcd"),
        lambda: status(403, "Forbidden", "not yet"),
        lambda: web.Response(body=b"{}"),
        lambda: web.Response(body=b'{"items":[]}'),
        lambda: web.Response(body=b"<html>"),
    ],
)
async def test_a_failed_list_is_not_an_empty_list(api: FakeApi, watcher: Watcher, answer: Any) -> None:
    api.behaviours.append(times(8, answer))
    api.cut()
    await api.forget()
    await eventually(lambda: "!" in watcher.told and "=" in watcher.told, watcher.told)
    assert set(watcher.take()) == {"!", "="}
    assert len(watcher.objects) == 2


async def test_failures_wait_longer_and_longer(api: FakeApi, tasks: Tasks) -> None:
    settings = dataclasses.replace(IMPATIENT, watch_retry_seconds=(0.05, 0.2), attempts=1)
    client = Client(api.access, settings=settings)
    api.behaviours.append(times(1000, lambda: status(403, "Forbidden", "no")))
    watcher = Watcher()
    tasks.start(watcher.follow(client), name="watch")
    await asyncio.sleep(1.0)
    assert len(api.seen) <= 9
    await eventually(lambda: len(api.seen) >= 3, api.seen)
    assert all(isinstance(each, ForbiddenError) for each in watcher.errors)
    await client.close()


async def test_a_server_that_always_forgets_is_not_asked_in_a_hurry(api: FakeApi, watcher: Watcher) -> None:
    async def forget(request: web.Request) -> web.StreamResponse | None:
        return status(410, "Expired", "too old") if "watch" in request.query else None

    api.behaviours.append(forget)
    before = len(api.seen)
    api.cut()
    await asyncio.sleep(0.5)
    assert len(api.seen) - before < 60
    await eventually(lambda: "!" in watcher.told, watcher.told)


async def test_a_server_that_ends_every_watch_at_once(api: FakeApi, watcher: Watcher) -> None:
    async def end(request: web.Request) -> web.StreamResponse | None:
        return web.Response(body=b"") if "watch" in request.query else None

    api.behaviours.append(end)
    before = len(api.seen)
    api.cut()
    await asyncio.sleep(0.5)
    assert len(api.seen) - before < 40
    await eventually(lambda: len(api.seen) - before > 3, api.seen)
    assert set(watcher.take()) == {"!"}
    api.behaviours.clear()
    await api.put("pods", pod("c"))
    await eventually(lambda: "+c" in watcher.told)


async def test_a_silent_connection_is_given_up(api: FakeApi, tasks: Tasks) -> None:
    client = Client(api.access, settings=dataclasses.replace(IMPATIENT, watch_idle_seconds=2.0))
    watcher = Watcher()
    tasks.start(watcher.follow(client), name="watch")
    await eventually(lambda: api.watching)
    for _ in range(12):  # bookmarks keep it alive
        await api.bookmark()
        await asyncio.sleep(0.25)
    assert len(api.asked(watch=True)) == 1
    await eventually(lambda: len(api.asked(watch=True)) == 2)
    await api.put("pods", pod("a"))
    await watcher.until("=", "+a")
    await client.close()


async def test_a_version_from_the_future_is_given_up(api: FakeApi, watcher: Watcher) -> None:
    """As after etcd was restored from a backup."""
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    api.behaviours.append(times(1, lambda: status(504, "Timeout", "Too large", causes=causes)))
    api.cut()
    await eventually(lambda: "=" in watcher.told, watcher.told)
    assert watcher.take() == ["!", "="]
    assert "resourceVersion" not in api.asked(watch=False)[-1].query


async def test_a_broken_object_keeps_its_last_state(
    api: FakeApi, watcher: Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    broken = pod("a") | {"spec": {"containers": "s3cret"}}
    await api.put("pods", broken)
    await api.put("pods", pod("c"))
    await watcher.until("+c")
    assert "object not understood" in caplog.text
    assert "s3cret" not in caplog.text
    await api.forget()
    await watcher.until("=")
    await eventually(lambda: api.watching)
    await api.remove("pods", "a", namespace="default")
    await watcher.until("-a")


async def test_rotation_goes_on_at_once(api: FakeApi, client: Client, watcher: Watcher) -> None:
    await api.bookmark()
    await asyncio.sleep(0.02)
    await client.rotate()
    await eventually(lambda: len(api.asked(watch=True)) == 2)
    await api.put("pods", pod("c"))
    await watcher.until("+c")


async def test_an_object_that_is_too_big(api: FakeApi, tasks: Tasks) -> None:
    client = Client(api.access, settings=dataclasses.replace(IMPATIENT, max_object_bytes=5000))
    watcher = Watcher()
    tasks.start(watcher.follow(client), name="watch")
    await eventually(lambda: api.watching)
    await api.send(b"x" * 200_000)
    await eventually(lambda: len(api.asked(watch=True)) > 1)
    await client.close()


async def test_a_burst_leaves_room_for_others(api: FakeApi, watcher: Watcher) -> None:
    lines = b"".join(event("ADDED", pod(f"p{n}", uid=str(n), resourceVersion="9")) for n in range(2000))
    await api.send(lines)
    gc.collect()
    gc.disable()  # the heap of a test run is not an agent's
    try:
        longest, last = 0.0, time.thread_time()  # not of the clock: others use this machine too
        while len(watcher.told) < 2000:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now
    finally:
        gc.enable()
    print(f"longest: {longest * 1000:.1f} ms")
    assert longest < 0.04


async def test_ending_closes_the_connection(api: FakeApi, client: Client) -> None:
    await api.put("pods", pod("a"))
    events = watch_resource(client, PODS)
    assert isinstance(await anext(events), Added)
    assert isinstance(await anext(events), Synced)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await anext(events)
    await events.aclose()
    await eventually(lambda: not api.watching)
    gc.collect()


async def test_nothing_secret_in_what_is_told(api: FakeApi, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await api.put("secrets", {"metadata": {"name": "a", "namespace": "n"}, "data": {"k": "czNjcmV0"}})
    async with contextlib.aclosing(watch_resource(client, SECRETS)) as events:
        told = repr(await anext(events))
    assert told == "<Added Secret n/a>"
    assert "czNjcmV0" not in caplog.text


def test_deltas_compare_by_what_they_are() -> None:
    found = json.loads("{}")
    first: object = Added(found)
    assert first != Modified(found)
    assert first == Added(found)
