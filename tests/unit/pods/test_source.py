"""Pods of an API server, from their binding to their DELETE (kubelet-contract sections 3, 4.3 and 4.7)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.support.agent import Agent
from tests.support.fake_api import status as failed
from tests.support.fake_api import times
from tests.support.joined import Joined, joined_agent
from tests.support.pods import container, pod
from tests.support.waiting import eventually
from wasmlet.kube.types import Lifecycle, LifecycleHandler, PodStatus, SleepAction


@pytest.fixture
async def joined(agent: Agent) -> AsyncIterator[Joined]:
    async with joined_agent(agent) as joined:
        yield joined


async def test_a_pod_is_run_and_its_end_is_told_before_the_one_delete(joined: Joined) -> None:
    await joined.start()
    made = pod(container("main", "sleep"), name="a")
    await joined.bind(made)
    status = await joined.until_phase("a", "Running")
    assert status["containerStatuses"][0]["ready"]
    last: list[dict[str, object]] = []

    async def look(request: web.Request) -> None:
        if request.method == "DELETE":
            last.append(joined.status("a"))

    joined.api.behaviours.append(look)
    await joined.delete("a", grace_seconds=5)
    await joined.until_gone("a")
    assert joined.deletes("a") == [
        {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": made.metadata.uid},
        }
    ]
    (final,) = last
    assert final["phase"] == "Failed"
    assert final["observedGeneration"] == 2
    assert final["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143  # type: ignore[index]
    await eventually(lambda: not joined.agent.dispatch.has(made.metadata.uid), joined.agent.dispatch)
    assert not list((joined.agent.directory / "pods").iterdir())


async def test_volumes_are_torn_down_before_the_delete(joined: Joined) -> None:
    await joined.start()
    made = pod(container("main", "sleep"), name="a")
    await joined.bind(made)
    await joined.until_phase("a", "Running")
    facts = joined.agent.dispatch.get(made.metadata.uid).facts
    seen: list[tuple[bool, str]] = []

    async def look(request: web.Request) -> None:
        if request.method == "DELETE":
            seen.append((facts.torn_down_at is not None, joined.status("a")["phase"]))

    joined.api.behaviours.append(look)
    await joined.delete("a")
    await joined.until_gone("a")
    assert seen == [(True, "Failed")]


async def test_finalizers_keep_the_object_and_nothing_more_is_done(joined: Joined) -> None:
    await joined.start()
    made = pod(container("main", "sleep"), name="a")
    await joined.bind(made)
    await joined.until_phase("a", "Running")

    async def keep(request: web.Request) -> web.StreamResponse | None:
        return web.json_response({}) if request.method == "DELETE" else None

    joined.api.behaviours.append(keep)
    await joined.delete("a")
    await eventually(lambda: joined.deletes("a"), joined.status("a"))
    document = joined.shown("a")
    assert document is not None
    document["metadata"]["labels"] = {"touched": "yes"}
    await joined.api.put("pods", document)
    await eventually(
        lambda: joined.agent.dispatch.get(made.metadata.uid).bundle.pod.metadata.labels, joined.agent.dispatch
    )
    await asyncio.sleep(0.2)
    assert len(joined.deletes("a")) == 1


async def test_a_delete_that_failed_is_sent_again(joined: Joined) -> None:
    await joined.start()
    await joined.bind(pod(container("main", "sleep"), name="a"))
    await joined.until_phase("a", "Running")
    joined.api.behaviours.append(times(1, lambda: failed(500, "InternalError", "no"), method="DELETE"))
    await joined.delete("a")
    await joined.until_gone("a")
    assert len(joined.deletes("a")) == 2


async def test_every_generation_is_observed_also_of_a_pod_that_has_ended(joined: Joined) -> None:
    await joined.start()
    await joined.bind(pod(container("main", "hello"), name="a"))
    await joined.until_phase("a", "Succeeded")
    document = joined.shown("a")
    assert document is not None
    times_before = {each["type"]: each["lastTransitionTime"] for each in document["status"]["conditions"]}
    document["metadata"]["generation"] = 7
    await joined.api.put("pods", document)
    await eventually(lambda: joined.status("a").get("observedGeneration") == 7, lambda: joined.status("a"))
    conditions = joined.status("a")["conditions"]
    assert {each["observedGeneration"] for each in conditions} == {7}
    assert {each["type"]: each["lastTransitionTime"] for each in conditions} == times_before


async def test_a_pod_that_is_being_deleted_when_it_is_first_seen_starts_nothing(joined: Joined) -> None:
    made = pod(container("main", "sleep"), name="a")
    await joined.bind(made)
    await joined.delete("a")
    await joined.start()
    await joined.until_gone("a")
    assert joined.agent.told("Started") == []
    assert joined.agent.engines.handles == []


async def test_an_ended_pod_of_a_lost_agent_is_deleted_without_a_word(joined: Joined) -> None:
    made = pod(container("main", "sleep"), name="a")
    made.status = PodStatus(phase="Succeeded")
    await joined.bind(made)
    kept = pod(container("main", "sleep"), name="kept")
    kept.status = PodStatus(phase="Failed")
    await joined.bind(kept)
    await joined.delete("a")
    await joined.start()
    await joined.until_gone("a")
    assert len(joined.deletes("a")) == 1
    assert joined.shown("kept") is not None
    assert joined.api.asked("PATCH") == []


async def test_an_object_that_vanishes_is_killed_now(joined: Joined) -> None:
    await joined.start()
    made = pod(
        container("main", "sleep", lifecycle=Lifecycle(pre_stop=LifecycleHandler(sleep=SleepAction(seconds=1000)))),
        name="a", termination_grace_period_seconds=1000,
    )  # fmt: skip
    await joined.bind(made)
    await joined.until_phase("a", "Running")
    await joined.api.remove("pods", "a", namespace="default")
    await eventually(lambda: not joined.agent.dispatch.has(made.metadata.uid), joined.agent.dispatch)
    assert joined.deletes("a") == []


async def test_a_pod_made_again_under_its_name_runs_beside_the_old_ones_end(joined: Joined) -> None:
    await joined.start()
    slow = Lifecycle(pre_stop=LifecycleHandler(sleep=SleepAction(seconds=1000)))
    old = pod(container("main", "sleep", lifecycle=slow), name="a")
    await joined.bind(old)
    await joined.until_phase("a", "Running")
    await joined.api.remove("pods", "a", namespace="default")
    new = pod(container("main", "sleep"), name="a")
    document = await joined.bind(new)
    assert document["metadata"]["uid"] == new.metadata.uid
    await joined.until_phase("a", "Running")
    assert {each.bundle.uid for each in joined.agent.dispatch.named("default", "a")} >= {new.metadata.uid}
    await eventually(lambda: not joined.agent.dispatch.has(old.metadata.uid), joined.agent.dispatch)
    assert joined.status("a")["phase"] == "Running"
    assert joined.deletes("a") == []


async def test_nothing_is_cleaned_before_the_first_whole_list_and_every_source(joined: Joined) -> None:
    await joined.start()
    made = pod(container("main", "sleep"), name="a")
    await joined.bind(made)
    await joined.until_phase("a", "Running")
    await joined.stop()
    await joined.api.remove("pods", "a", namespace="default")

    async def away(request: web.Request) -> web.StreamResponse | None:
        return failed(500, "InternalError", "no list") if request.method == "GET" else None

    joined.api.behaviours.append(away)
    await joined.start()
    await eventually(lambda: len(joined.api.asked("GET")) > 2, joined.source, seconds=20)
    assert joined.agent.dispatch.get(made.metadata.uid).facts.deletion is None
    joined.agent.dispatch.unreported.add("another source")
    joined.api.behaviours.clear()
    await joined.until_synced()
    assert joined.agent.dispatch.get(made.metadata.uid).facts.deletion is None
    joined.agent.dispatch.reported("another source")
    await eventually(lambda: not joined.agent.dispatch.has(made.metadata.uid), joined.agent.dispatch)


async def test_a_pod_of_a_terminal_is_no_orphan(joined: Joined) -> None:
    from tests.support.pods import bundle

    await joined.start()
    own = bundle(container("main", "sleep"))
    joined.agent.dispatch.submit(own)
    await joined.until_synced()
    await joined.agent.until_running(own)


async def test_others_conditions_are_left_alone(joined: Joined) -> None:
    await joined.start()
    made = pod(container("main", "sleep"), name="a")
    await joined.bind(made)
    await joined.until_phase("a", "Running")
    for seen in joined.api.asked("PATCH"):
        conditions = json.loads(seen.body).get("status", {}).get("conditions", [])
        assert {each["type"] for each in conditions} <= {
            "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled",
        }  # fmt: skip


MANY = 60


async def test_many_pods_at_once_come_and_go(joined: Joined) -> None:
    await joined.start()
    names = [f"p{number}" for number in range(MANY)]
    for name in names:
        await joined.bind(pod(container("main", "sleep"), name=name))
    for name in names:
        await joined.until_phase(name, "Running")
    for name in names:
        await joined.delete(name, grace_seconds=2)
    for name in names:
        await joined.until_gone(name)
        assert len(joined.deletes(name)) == 1
    await eventually(lambda: not list(joined.agent.dispatch.workers), joined.agent.dispatch)
    assert not list((joined.agent.directory / "pods").iterdir())
