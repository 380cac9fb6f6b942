"""RuntimeClasses as the watch tells them."""

import asyncio
from typing import Any

import pytest

from tests.support.fake_api import FakeApi
from tests.support.waiting import eventually
from wasmlet.base.errors import NotFoundError
from wasmlet.kube.client import Client
from wasmlet.kube.runtime_classes import RuntimeClasses


def runtime_class(name: str, handler: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "handler": handler}


async def test_handlers_follow_the_cluster(api: FakeApi, client: Client) -> None:
    await api.put("runtimeclasses", runtime_class("wasm", "wasmlet"))
    classes = RuntimeClasses(client)
    async with asyncio.TaskGroup() as group:
        early = group.create_task(classes.handler("wasm"))
        following = group.create_task(classes.run())
        assert await early == "wasmlet", "who asks too early waits"
        with pytest.raises(NotFoundError, match=r'runtimeclass\.node\.k8s\.io "other" not found'):
            await classes.handler("other")
        await api.put("runtimeclasses", runtime_class("wasm", "changed"))
        await eventually(lambda: "changed" in repr(classes), classes)
        assert await classes.handler("wasm") == "changed"
        await api.remove("runtimeclasses", "wasm")
        await eventually(lambda: repr(classes) == "<RuntimeClasses {}>", classes)
        following.cancel()
