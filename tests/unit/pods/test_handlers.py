"""RuntimeClass handlers: which engine a pod has, and what a pod without one shows."""

from __future__ import annotations

from pathlib import Path

from tests.support.agent import Agent, status_of
from tests.support.pods import bundle, container
from tests.support.waiting import eventually
from wasmlet.base.errors import UserError
from wasmlet.kube.types import (
    Pod,
)
from wasmlet.pods import handlers


async def test_a_pod_that_asks_for_it_has_an_engine_of_its_own(agent: Agent) -> None:
    shared = bundle(container("main", "sleep"), runtime_class_name="wasmlet")
    alone = bundle(container("main", "sleep"), runtime_class_name="wasmlet-isolated")
    other = bundle(container("main", "sleep"), runtime_class_name="anything")
    used = {}
    for each in (shared, alone, other):
        agent.dispatch.submit(each)
        used[each.uid] = (await agent.until_running(each)).engine
    assert used[shared.uid] == used[other.uid] != used[alone.uid]
    keys = {handle.record.id: handle.record.key.dedicated for handle in agent.engines.handles}
    assert (keys[used[shared.uid]], keys[used[alone.uid]]) == ("", alone.uid)


async def test_the_class_of_a_running_pod_may_go(agent: Agent, tmp_path: Path) -> None:
    gone = False

    async def handler(_pod: Pod) -> str:
        if gone:
            raise UserError("gone", reason=handlers.SANDBOX_REASON)
        return handlers.ISOLATED

    agent.runtime_handler = handler
    await agent.restart()
    submitted = bundle(container("main", "sleep"), restart_policy="Always")
    agent.dispatch.submit(submitted)
    attempt = await agent.until_running(submitted)
    gone = True
    await agent.restart()
    await agent.engines.stop(attempt.engine, attempt.id, grace_seconds=0)
    again = await agent.until_running(submitted, number=1)
    key = next(each.record.key for each in agent.engines.handles if each.record.id == again.engine)
    assert key.dedicated == submitted.uid


async def test_a_handler_that_is_not_there_shows_as_an_event_only(agent: Agent) -> None:
    wanted = "kata"

    async def handler(_pod: Pod) -> str:
        return handlers.check(wanted)

    agent.runtime_handler = handler
    await agent.restart()
    submitted = bundle(container("main", "hello"))
    agent.dispatch.submit(submitted)
    await eventually(lambda: len(agent.told("FailedCreatePodSandBox")) >= 2, "events")
    text = 'Failed to create pod sandbox: no runtime for "kata" is configured'
    assert agent.told("FailedCreatePodSandBox")[0].startswith(text)
    assert agent.told("FailedMount") == []
    status = agent.worker(submitted).status()
    assert status.phase == "Pending"
    waiting = status_of(agent.worker(submitted)).state.waiting
    assert waiting is not None
    assert waiting.reason == "ContainerCreating"
    wanted = "wasmlet"
    assert await agent.until_ended(submitted) == "Succeeded"
