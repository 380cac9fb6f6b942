"""An agent in this process whose pods come from a fake API server, with source, mirrors and reports between."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.support.agent import Agent, Recorder
from tests.support.fake_api import Document, FakeApi
from tests.support.waiting import eventually
from wasmlet.base.tasks import Tasks
from wasmlet.kube.client import Client
from wasmlet.kube.types import Pod
from wasmlet.pods.mirror import Mirrors, Owner
from wasmlet.pods.report import Reporter
from wasmlet.pods.source import ApiSource
from wasmlet.pods.static import StaticSource
from wasmlet.pods.worker import Worker

NODE = "n"


class _Hub(Recorder):
    """Reports every change, as the cluster's listener does."""

    def __init__(self, find: Callable[[str], Worker | None]) -> None:
        super().__init__()
        self.reporter: Reporter | None = None
        self._find = find

    def changed(self, uid: str) -> None:
        super().changed(uid)
        worker = self._find(uid)
        if self.reporter is not None and worker is not None:
            self.reporter.changed(worker)


class Joined:
    """An agent, joined.

    Attributes:
        owner: The own Node; tests change it.
        manifests: A directory for static pods; None: this node has none.
    """

    def __init__(self, agent: Agent, api: FakeApi) -> None:
        self.agent = agent
        self.api = api
        self.owner = Owner(name=NODE, uid="node-uid")
        self.manifests: Path | None = None
        self.hub = _Hub(self._find)
        agent.hub = self.hub
        self.tasks = Tasks()
        self.client = Client(api.access)

    async def start(self) -> None:
        """Another agent on the same directory, which joins."""
        await self.stop()
        self.client = Client(self.api.access)
        self.hub.reporter = reporter = Reporter(self.client, resync_seconds=0.05)
        await self.agent.restart()
        dispatch = self.agent.dispatch
        if self.manifests is not None:
            static = StaticSource(self.manifests, dispatch, node_name=NODE, rescan_seconds=1000.0)
            self.tasks.start(static.run(), name="static pods")
        self.mirrors = Mirrors(self.client, dispatch, reporter, owner=lambda: self.owner, retry_seconds=0.05)
        self.source = ApiSource(self.client, dispatch, node_name=NODE, mirrors=self.mirrors, retry_seconds=0.05)
        for name, work in (("source", self.source.run()), ("mirrors", self.mirrors.run()), ("reports", reporter.run())):
            self.tasks.start(work, name=name)

    async def stop(self) -> None:
        """Leave the API server; pods go on."""
        await self.tasks.close()
        await self.client.close()

    async def until_synced(self) -> None:
        await eventually(lambda: self.source.has_synced, self.source)

    def _find(self, uid: str) -> Worker | None:
        dispatch = getattr(self.agent, "dispatch", None)
        return dispatch.get(uid) if dispatch is not None and dispatch.has(uid) else None

    # --- what a cluster does ------------------------------------------------------------------------------------------

    async def bind(self, pod: Pod) -> Document:
        """The scheduler has bound the pod here."""
        pod.spec.node_name = NODE
        return await self.api.put("pods", json.loads(msgspec.json.encode(pod)))

    async def delete(self, name: str, *, grace_seconds: int = 30) -> None:
        """Ask for a graceful end, as `kubectl delete` does."""
        document = self.shown(name)
        assert document is not None
        document["metadata"] |= {
            "deletionTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": grace_seconds,
            "generation": document["metadata"].get("generation", 0) + 1,
        }
        await self.api.put("pods", document)

    def shown(self, name: str) -> Document | None:
        """The object as the API server has it."""
        found = self.api._of("pods").objects.get(("default", name))
        return None if found is None else json.loads(json.dumps(found))

    def status(self, name: str) -> dict[str, Any]:
        document = self.shown(name)
        return {} if document is None else document.get("status", {})

    async def until_phase(self, name: str, phase: str) -> dict[str, Any]:
        await eventually(lambda: self.status(name).get("phase") == phase, lambda: self.status(name), seconds=20)
        return self.status(name)

    async def until_gone(self, name: str) -> None:
        await eventually(lambda: self.shown(name) is None, lambda: self.shown(name), seconds=20)

    def deletes(self, name: str) -> list[Document]:
        """The bodies of all DELETEs of a pod."""
        return [json.loads(each.body) for each in self.api.asked("DELETE") if each.path.endswith(f"/pods/{name}")]


@contextlib.asynccontextmanager
async def joined_agent(agent: Agent) -> AsyncIterator[Joined]:
    """The agent, not joined yet: `start` does it."""
    async with FakeApi.running() as api:
        joined = Joined(agent, api)
        try:
            yield joined
        finally:
            await joined.stop()
            await asyncio.sleep(0)
