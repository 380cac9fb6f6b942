"""The own Node, followed over real HTTP; registered anew when it is gone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.fake_api import FakeApi
from tests.support.waiting import eventually
from wasmlet.kube.client import Client
from wasmlet.kube.types import ObjectMeta
from wasmlet.node.objects import NODES, NodeObject
from wasmlet.node.own import OwnNode


@contextlib.asynccontextmanager
async def following(client: Client) -> AsyncIterator[OwnNode]:
    async def register() -> NodeObject:
        return await client.create(NODES, NodeObject(metadata=ObjectMeta(name="n")))

    own = OwnNode(client, "n", register=register)
    await own.register()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(own.run())
        await own.synced.wait()
        yield own
        task.cancel()


async def test_changes_are_known(api: FakeApi, client: Client) -> None:
    async with following(client) as own:
        heard: list[tuple[str, bool]] = []
        own.changed = lambda node, *, is_another: heard.append((node.spec.pod_cidr, is_another))
        await api.put("nodes", {"metadata": {"name": "n"}, "spec": {"podCIDR": "10.1.0.0/24"}})
        await eventually(lambda: heard)
        assert heard == [("10.1.0.0/24", False)]
        assert own.latest is not None
        assert own.latest.spec.pod_cidr == "10.1.0.0/24"


async def test_deleted_and_registered_anew(api: FakeApi, client: Client) -> None:
    async with following(client) as own:
        first = own.uid
        heard: list[bool] = []
        own.changed = lambda node, *, is_another: heard.append(is_another)
        await api.remove("nodes", "n")
        await eventually(lambda: own.uid not in ("", first))
        assert heard[0] is True
        second = own.uid
        await api.remove("nodes", "n")
        await eventually(lambda: own.uid not in (first, second))


async def test_deleted_while_the_watch_was_away(api: FakeApi, client: Client) -> None:
    async with following(client) as own:
        first = own.uid
        await api.remove("nodes", "n")
        await api.forget()
        await eventually(lambda: own.uid not in ("", first))


async def test_deleted_before_the_first_list(api: FakeApi, client: Client) -> None:
    async def register() -> NodeObject:
        return await client.create(NODES, NodeObject(metadata=ObjectMeta(name="n")))

    own = OwnNode(client, "n", register=register)
    await own.register()
    await api.remove("nodes", "n")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(own.run())
        await eventually(lambda: len(api.asked("POST")) == 2)
        task.cancel()


@pytest.mark.parametrize(
    ("uid", "version", "is_taken"), [("u", "9", False), ("u", "10", True), ("v", "9", True), ("u", "odd", True)]
)
async def test_what_is_older_is_not_taken(client: Client, uid: str, version: str, is_taken: bool) -> None:
    async def register() -> NodeObject:
        raise AssertionError

    own = OwnNode(client, "n", register=register)
    own.offer(NodeObject(metadata=ObjectMeta(uid="u", resource_version="10")))
    new = NodeObject(metadata=ObjectMeta(uid=uid, resource_version=version))
    own.offer(new)
    assert (own.latest is new) is is_taken
