"""Pods that are let in, pods that are not, and pods that make room."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.agent import Agent
from tests.support.pods import bundle, data_volume
from tests.support.waiting import eventually
from tests.unit.pods.standing import ALLOCATABLE, join, of_api, sleeping
from wasmlet.pods.admission import NodeFacts, Refusal

# --- rejected ---------------------------------------------------------------------------------------------------------


async def test_a_rejected_pod_says_so_once_and_leaves_nothing(agent: Agent) -> None:
    await join(agent)
    rejected = of_api(sleeping("3"), volumes=[data_volume()])
    seen: list[tuple[str, str]] = []
    agent.hub.changed = lambda uid: seen.extend(_shown(agent, uid))  # type: ignore[method-assign]
    agent.dispatch.submit(rejected)
    assert await agent.until_ended(rejected) == "Failed"
    status = agent.worker(rejected).status()
    text = "Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"
    assert (status.reason, status.message) == ("OutOfcpu", f"Pod was rejected: {text}")
    assert (status.container_statuses, status.init_container_statuses) == ([], [])
    assert (status.qos_class, status.host_ip) == ("Burstable", "127.0.0.1")
    assert status.start_time
    assert status.pod_ip == ""
    assert agent.told("OutOfcpu") == [text]
    assert set(seen) <= {("Failed", "OutOfcpu")}, "no state between is ever shown"
    assert not (agent.worker(rejected).places.pod / "volumes").exists()
    assert not agent.worker(rejected).places.logs.exists()
    assert agent.engines.handles == []
    await agent.restart()
    assert await agent.until_ended(rejected) == "Failed"
    assert agent.told("OutOfcpu") == [text]
    agent.dispatch.end(rejected.uid, remove=True)
    assert not agent.dispatch.has(rejected.uid)
    assert not (agent.directory / "pods" / rejected.uid).exists()


def _shown(agent: Agent, uid: str) -> Iterator[tuple[str, str]]:
    if agent.dispatch.has(uid):
        status = agent.dispatch.get(uid).status()
        yield status.phase, status.reason


async def test_what_others_hold_is_given_back_when_they_have_ended(agent: Agent) -> None:
    await join(agent)
    holder, late, after = of_api(sleeping("1500m")), of_api(sleeping("1")), of_api(sleeping("1"))
    agent.dispatch.submit(holder)
    await agent.until_running(holder)
    agent.dispatch.submit(late)
    assert await agent.until_ended(late) == "Failed"
    assert agent.worker(late).status().message.endswith("requested: 1000, used: 1500, capacity: 2000")
    agent.dispatch.end(holder.uid, remove=False, grace_seconds=1)
    await agent.until_ended(holder)
    agent.dispatch.submit(after)
    await agent.until_running(after)


async def test_many_at_once_never_hold_more_than_there_is(agent: Agent) -> None:
    await join(agent)
    submitted = [of_api(sleeping("1")) for _ in range(6)]
    for each in submitted:
        agent.dispatch.submit(each)

    def decided() -> bool:
        facts = [agent.worker(each).facts for each in submitted]
        return all(each.admitted_at is not None or each.verdict is not None for each in facts)

    await eventually(decided, agent.dispatch)
    assert sum(agent.worker(each).facts.admitted_at is not None for each in submitted) == 2


async def test_an_admitted_pod_stays_whatever_becomes_of_the_node(agent: Agent) -> None:
    await join(agent)
    submitted = of_api(sleeping("2"))
    agent.dispatch.submit(submitted)
    attempt = await agent.until_running(submitted)
    await join(agent, allocatable={"cpu": "1", "pods": "0"}, labels={}, pressures=["DiskPressure"])
    again = await agent.until_running(submitted)
    assert again.id == attempt.id
    assert agent.worker(submitted).status().phase == "Running"


async def test_pods_of_a_terminal_need_not_fit_and_hold_nothing(agent: Agent) -> None:
    await join(agent)
    local, submitted = bundle(sleeping("9")), of_api(sleeping("2"))
    for each in (local, submitted):
        agent.dispatch.submit(each)
        await agent.until_running(each)


async def test_labels_that_the_watch_has_not_told_yet_are_looked_up(agent: Agent) -> None:
    standing = await join(agent)
    standing.live = NodeFacts(name="node", allocatable=ALLOCATABLE, labels={"disk": "fast"})
    fits, fits_not = of_api(sleeping(), node_selector={"disk": "fast"}), of_api(sleeping(), node_selector={"a": "b"})
    for each in (fits, fits_not):
        agent.dispatch.submit(each)
    await agent.until_running(fits)
    assert await agent.until_ended(fits_not) == "Failed"
    assert agent.worker(fits_not).status().reason == "NodeAffinity"


async def test_a_node_that_goes_down_takes_no_pods(agent: Agent) -> None:
    await join(agent)
    agent.refusal = Refusal("NodeShutdown", "Pod was rejected as the node is shutting down.")
    submitted = of_api(sleeping())
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    assert agent.worker(submitted).status().reason == "NodeShutdown"
    assert agent.told("NodeShutdown") == ["Pod was rejected as the node is shutting down."]


async def test_a_pod_that_is_deleted_while_the_node_is_not_known_ends(agent: Agent) -> None:
    import asyncio

    standing = await join(agent)

    async def never(*, live: bool = False) -> NodeFacts:
        del live
        await asyncio.Event().wait()
        raise AssertionError

    standing.facts = never  # type: ignore[method-assign]
    submitted = of_api(sleeping())
    agent.dispatch.submit(submitted)
    agent.dispatch.end(submitted.uid, grace_seconds=1, remove=False)
    await agent.until(submitted, lambda worker: worker.is_gone)
    assert agent.worker(submitted).facts.admitted_at is None


# --- critical pods ----------------------------------------------------------------------------------------------------


async def test_a_critical_pod_comes_in_when_a_lesser_one_has_gone(agent: Agent) -> None:
    await join(agent)
    lesser, kept = of_api(sleeping("1500m")), of_api(sleeping("500m"))
    for each in (lesser, kept):
        each.pod.spec.termination_grace_period_seconds = 1
        agent.dispatch.submit(each)
        await agent.until_running(each)
    critical = of_api(sleeping("1"), priority=2_000_000_000)
    agent.dispatch.submit(critical)
    await agent.until_running(critical)
    status = agent.worker(lesser).status()
    assert (status.phase, status.reason) == ("Failed", "Preempting")
    assert status.message == "Preempted in order to admit critical pod"
    target = [each for each in status.conditions if each.type == "DisruptionTarget"]
    assert [(each.status, each.reason) for each in target] == [("True", "TerminationByKubelet")]
    assert agent.told("Preempting") == ["Preempted in order to admit critical pod"]
    assert agent.worker(kept).status().phase == "Running"
    assert (agent.worker(lesser).facts.ended_at or 0) <= (agent.worker(critical).facts.admitted_at or 0)


async def test_a_critical_pod_for_which_nobody_could_make_room_is_refused(agent: Agent) -> None:
    await join(agent)
    kept, critical = of_api(sleeping("1")), of_api(sleeping("3"), priority=2_000_000_000)
    agent.dispatch.submit(kept)
    await agent.until_running(kept)
    agent.dispatch.submit(critical)
    assert await agent.until_ended(critical) == "Failed"
    assert agent.worker(critical).status().reason == "UnexpectedAdmissionError"
    assert agent.worker(kept).status().phase == "Running"
