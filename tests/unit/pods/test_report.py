"""Statuses on their way to the API server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent import Agent, Recorder
from tests.support.fake_api import FakeApi
from tests.support.pods import bundle, container, data_volume
from tests.support.waiting import eventually
from wasmlet.base.tasks import Tasks
from wasmlet.kube.client import Client
from wasmlet.kube.types import IP, PodStatus
from wasmlet.pods import report
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.report import Reporter, patch
from wasmlet.volumes import mount

KEYS = st.sampled_from(["phase", "reason", "message", "startTime"])
STATUSES = st.dictionaries(KEYS, st.text(max_size=3))


def applied(before: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """What a merge patch makes of plain fields."""
    merged = before | change
    return {key: value for key, value in merged.items() if value is not None}


@given(STATUSES, STATUSES)
def test_a_patch_leads_from_one_status_to_the_next(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert applied(before, patch(before, after)) == after


@given(STATUSES)
def test_nothing_new_is_nothing_to_send(status: dict[str, Any]) -> None:
    assert patch(status, status) == {}


@pytest.mark.parametrize("key", ["podIPs", "hostIPs"])
def test_addresses_replace_each_other(key: str) -> None:
    before, after = {key: [{"ip": "10.0.0.1"}]}, {key: [{"ip": "10.0.0.2"}]}
    assert patch(before, after) == {key: [{"ip": "10.0.0.2"}, {"$patch": "replace"}]}
    assert patch({}, after) == {key: [{"ip": "10.0.0.2"}]}


def test_only_own_conditions_that_differ_are_sent_and_their_fields_that_went_are_unset() -> None:
    ready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "why"}
    others = {"type": "example.com/gate", "status": "False"}
    kept = {"type": "PodScheduled", "status": "True"}
    after = [{"type": "Ready", "status": "True"}, others | {"status": "True"}, kept]
    assert patch({"conditions": [ready, others, kept]}, {"conditions": after}) == {
        "conditions": [{"type": "Ready", "status": "True", "reason": None, "message": None}]
    }
    assert patch({"conditions": [others]}, {"conditions": [others | {"status": "True"}]}) == {}


def test_a_status_is_named_as_the_api_names_it() -> None:
    status = PodStatus(phase="Running", pod_ip="10.0.0.1", pod_ips=[IP(ip="10.0.0.1")])
    assert patch({}, msgspec.to_builtins(status)) == {
        "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
    }  # fmt: skip


# --- against a server -------------------------------------------------------------------------------------------------


class Told(Recorder):
    """Every change goes to the reporter too."""

    def __init__(self, agent: Agent, reporter: Reporter) -> None:
        super().__init__()
        self.agent = agent
        self.reporter = reporter

    def changed(self, uid: str) -> None:
        super().changed(uid)
        if self.agent.dispatch.has(uid):
            self.reporter.changed(self.agent.dispatch.get(uid))


async def reported(agent: Agent, wanted: Bundle, *, until: str) -> list[str]:
    """The phases that a server is told of a pod, from its submission to the phase `until`."""
    async with FakeApi.running() as api:
        client, tasks = Client(api.access), Tasks()
        reporter = Reporter(client)
        agent.hub = Told(agent, reporter)
        await agent.restart()
        tasks.start(reporter.run(), name="reports")
        meta = wanted.pod.metadata
        await api.put("pods", {"metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}})
        agent.dispatch.submit(wanted)

        def phases() -> list[str]:
            told = ["Pending"]  # a patch says what has changed
            for each in api.asked("PATCH"):
                told.append(json.loads(each.body)["status"].get("phase", told[-1]))
            return told[1:]

        await eventually(lambda: phases()[-1:] == [until], phases)
        await tasks.close()
        await client.close()
        return phases()


async def test_a_pod_that_ends_at_once_was_running_before(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "HOLD_SECONDS", 30.0)  # a start may take its time on a machine with other work
    phases = await reported(agent, bundle(container("main", "exit", "0")), until="Succeeded")
    assert list(dict.fromkeys(phases)) == ["Running", "Succeeded"]


async def test_a_pod_that_starts_at_once_is_reported_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "HOLD_SECONDS", 30.0)
    assert await reported(agent, bundle(container("main", "sleep")), until="Running") == ["Running"]


async def test_a_pod_that_takes_its_time_is_reported_meanwhile(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go_on = asyncio.Event(), asyncio.Event()
    set_up = mount.set_up

    async def slow(*arguments: Any, **fields: Any) -> Any:
        begun.set()
        await may_go_on.wait()
        return await set_up(*arguments, **fields)

    monkeypatch.setattr(mount, "set_up", slow)
    wanted = bundle(container("main", "sleep"), volumes=[data_volume()])
    assert await reported(agent, wanted, until="Pending") == ["Pending"]
    assert begun.is_set()
    may_go_on.set()
