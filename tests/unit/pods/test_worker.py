"""The life of pods, with real engines and guests."""

import itertools
import os
import signal
import time

import msgspec
import pytest

from tests.support.agent import Agent, status_of
from tests.support.guests import guest
from tests.support.pods import bundle, config_map, container, data_volume, flaky
from tests.support.waiting import eventually
from wasmlet.base.clock import from_text
from wasmlet.kube.types import (
    EnvVar,
    EnvVarSource,
    ExitCodes,
    KeySelector,
    Pod,
    PodCondition,
    ReadinessGate,
    RestartRule,
)
from wasmlet.pods import facts
from wasmlet.pods.admission import Refusal
from wasmlet.pods.facts import LOST_MESSAGE
from wasmlet.pods.restarts import BackOff
from wasmlet.pods.worker import Worker


async def test_a_pod_that_ends_well_succeeds_and_keeps_its_output(agent: Agent) -> None:
    submitted = bundle(container("main", "hello"))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    assert agent.output(submitted) == b"hello\n"
    status = status_of(agent.worker(submitted))
    assert status.state.terminated is not None
    assert (status.state.terminated.reason, status.state.terminated.exit_code, status.restart_count) == (
        "Completed", 0, 0,
    )  # fmt: skip
    assert status.image_id.startswith("sha256:") or "@sha256:" in status.image_id
    assert status.container_id == f"wasmlet://{facts.sandbox_id(submitted.uid, 'main', 0)}"
    assert not (agent.worker(submitted).places.pod / "containers").exists()


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (3, "Failed"), (255, "Failed")])
async def test_the_exit_code_is_kept_exactly(agent: Agent, code: int, phase: str) -> None:
    submitted = bundle(container("main", "exit", str(code)))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == phase
    assert agent.attempts(submitted) == [(0, code)]


async def test_on_failure_restarts_with_a_growing_wait_until_it_succeeds(agent: Agent) -> None:
    submitted = bundle(flaky(4), restart_policy="OnFailure", volumes=[data_volume()])
    agent.dispatch.submit(submitted)
    waits: dict[int, float] = {}

    def ended(worker: Worker) -> bool:
        own = worker.facts.container("main")
        for before, after in itertools.pairwise(own.attempts):
            waits[after.number] = after.created_at - (before.finished_at or 0.0)
        return worker.is_gone

    await agent.until(submitted, ended)
    assert agent.attempts(submitted) == [(2, 3), (3, 0)]
    assert agent.worker(submitted).status().phase == "Succeeded"
    assert status_of(agent.worker(submitted)).restart_count == 3
    assert waits[2] >= 0.05
    assert waits[3] >= 0.1


async def test_always_restarts_what_succeeded(agent: Agent) -> None:
    submitted = bundle(container("main", "exit", "0"), restart_policy="Always")
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: status_of(worker).restart_count >= 3)
    await agent.until(submitted, _is_in_back_off)
    assert agent.worker(submitted).status().phase == "Running"
    meta = submitted.pod.metadata
    waits = [each for each in agent.hub.told if each.reason == "BackOff"]
    assert waits[0].message == f"Back-off restarting failed container main in pod {meta.name}_default({meta.uid})"
    assert {(each.kind, each.container) for each in waits} == {("Warning", "main")}
    # The first restart does not wait, and no wait is told twice.
    assert len(waits) <= status_of(agent.worker(submitted)).restart_count
    agent.dispatch.end(submitted.uid, remove=False)
    assert await agent.until_ended(submitted) == "Succeeded"


def _is_in_back_off(worker: Worker) -> bool:
    waiting = status_of(worker).state.waiting
    last = status_of(worker).last_state.terminated
    return waiting is not None and waiting.reason == "CrashLoopBackOff" and last is not None


async def test_init_containers_run_one_after_another(agent: Agent) -> None:
    submitted = bundle(
        container("main", "hello"),
        init_containers=[container("first", "hello"), container("second", "hello")],
    )
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    own = [agent.worker(submitted).facts.container(name).last for name in ("first", "second", "main")]
    for before, after in itertools.pairwise(own):
        assert before is not None
        assert after is not None
        assert (before.finished_at or 0) <= after.created_at
    initialized = [each for each in agent.worker(submitted).status().conditions if each.type == "Initialized"]
    assert initialized[0].status == "True"


async def test_a_failing_init_container_fails_a_pod_that_never_restarts(agent: Agent) -> None:
    submitted = bundle(container("main", "hello"), init_containers=[container("first", "exit", "7")])
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    assert agent.attempts(submitted, "first") == [(0, 7)]
    assert agent.attempts(submitted) == []
    waiting = status_of(agent.worker(submitted)).state.waiting
    assert waiting is not None
    assert waiting.reason == "PodInitializing"


async def test_a_failing_init_container_is_tried_again_with_always(agent: Agent) -> None:
    submitted = bundle(
        container("main", "sleep"),
        init_containers=[flaky(3, "first")],
        volumes=[data_volume()],
        restart_policy="Always",
    )
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    assert agent.attempts(submitted, "first")[-1] == (2, 0)


async def test_a_sidecar_runs_beside_the_apps_and_is_stopped_after_them(agent: Agent) -> None:
    sidecars = [
        container("one", "sleep", restart_policy="Always"),
        container("two", "sleep", restart_policy="Always"),
    ]
    submitted = bundle(container("main", "sleep", "1"), init_containers=sidecars)
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    assert status_of(agent.worker(submitted), "one").started
    assert status_of(agent.worker(submitted), "two").ready
    assert await agent.until_ended(submitted) == "Succeeded"
    ends = {name: agent.worker(submitted).facts.container(name).last for name in ("main", "one", "two")}
    moments = [each.finished_at or 0.0 for name in ("main", "two", "one") if (each := ends[name]) is not None]
    assert moments == sorted(moments)
    assert len(moments) == 3
    assert agent.attempts(submitted, "one") == [(0, 143)]


async def test_a_sidecar_is_restarted_while_the_pod_never_restarts(agent: Agent) -> None:
    submitted = bundle(
        container("main", "sleep", "1"), init_containers=[container("side", "exit", "1", restart_policy="Always")]
    )
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: status_of(worker, "side").restart_count >= 2)
    assert await agent.until_ended(submitted) == "Succeeded"


async def test_a_missing_config_map_key_is_a_config_error_until_it_is_there(agent: Agent) -> None:
    variable = EnvVar(name="A", value_from=EnvVarSource(config_map_key_ref=KeySelector(name="settings", key="a")))
    submitted = bundle(container("main", "env", env=[variable]), config_maps=[config_map("settings", b="2")])
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "CreateContainerConfigError")
    assert "a" in message
    assert "settings" in message
    assert agent.worker(submitted).status().phase == "Pending"
    agent.worker(submitted).bundle.config_maps[:] = [config_map("settings", a="1")]
    assert await agent.until_ended(submitted) == "Succeeded"
    assert b"A=1\n" in agent.output(submitted)


async def test_a_killed_engine_restarts_its_containers_and_no_others(agent: Agent) -> None:
    hit = bundle(container("main", "sleep"), restart_policy="Always", namespace="hit")
    once = bundle(container("main", "sleep"), restart_policy="Never", namespace="hit")
    other = bundle(container("main", "sleep"), restart_policy="Always", namespace="other")
    for each in (hit, once, other):
        agent.dispatch.submit(each)
        await agent.until_running(each)
    engine = next(each for each in agent.engines.handles if each.record.key.namespace == "hit")
    os.kill(engine.engine.pid, signal.SIGKILL)
    again = await agent.until_running(hit, number=1)
    assert again.number == 1
    last = status_of(agent.worker(hit)).last_state.terminated
    assert last is not None
    assert (last.exit_code, last.reason, last.message) == (137, "Error", LOST_MESSAGE)
    assert await agent.until_ended(once) == "Failed"
    assert agent.attempts(other) == [(0, 0)]
    assert status_of(agent.worker(other)).state.running is not None


async def test_deletion_ends_a_pod_with_its_signal_and_removes_it(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep"))
    worker = agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    agent.dispatch.end(submitted.uid)
    await eventually(lambda: not agent.dispatch.has(submitted.uid), worker)
    attempt = worker.facts.container("main").last
    assert attempt is not None
    assert (attempt.exit_code, attempt.reason) == (143, "Error")
    assert agent.told("Killing") == ["Stopping container main"]
    assert not worker.places.pod.exists()
    assert not worker.places.logs.exists()


async def test_a_deadline_ends_a_pod_and_says_so(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep"), restart_policy="Always", active_deadline_seconds=1)
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    status = agent.worker(submitted).status()
    assert status.reason == "DeadlineExceeded"
    assert status.message == "Pod was active on the node longer than the specified deadline"


async def test_a_restart_rule_restarts_all_containers(agent: Agent) -> None:
    rule = RestartRule(action="RestartAllContainers", exit_codes=ExitCodes(operator="In", values=[3]))
    submitted = bundle(
        container("other", "sleep"),
        flaky(2, restart_policy="Never", restart_policy_rules=[rule]),
        init_containers=[container("first", "exit", "0")],
        volumes=[data_volume()],
    )
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: agent.attempts(submitted)[-1:] == [(1, 0)])
    await agent.until_running(submitted, "other", number=1)
    assert agent.attempts(submitted, "other") == [(0, 137), (1, 0)]
    assert agent.attempts(submitted, "first") == [(0, 0), (1, 0)]


async def test_all_containers_are_restarted_also_when_the_clock_is_set_back(agent: Agent) -> None:
    def earlier() -> float:
        return time.time() - 1000 if agent.told("Started") else time.time()

    agent.clock = earlier
    rule = RestartRule(action="RestartAllContainers", exit_codes=ExitCodes(operator="In", values=[3]))
    main = flaky(2, restart_policy="Never", restart_policy_rules=[rule])
    submitted = bundle(main, volumes=[data_volume()])
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    assert agent.attempts(submitted) == [(0, 3), (1, 0)]


async def test_a_full_disk_once_stops_nothing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever save fails, the pod ends as it would have, and its guest has run as often as it should."""
    real, calls = facts.save, 0

    def count(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(28, "No space left on device")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(facts, "save", count)
    failing = 0
    while failing <= calls:
        failing, calls = failing + 1, 0
        submitted = bundle(flaky(2), restart_policy="OnFailure", volumes=[data_volume()])
        agent.dispatch.submit(submitted)
        assert await agent.until_ended(submitted) == "Succeeded"
        assert agent.attempts(submitted) == [(0, 3), (1, 0)], failing
    assert failing > 5


async def test_the_message_a_guest_leaves_is_in_its_status(agent: Agent) -> None:
    submitted = bundle(container("main", "termination", "it was me"))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    terminated = status_of(agent.worker(submitted)).state.terminated
    assert terminated is not None
    assert terminated.message == "it was me"
    assert from_text(terminated.started_at or "") <= from_text(terminated.finished_at or "")


async def test_a_trap_is_told_with_its_backtrace(agent: Agent) -> None:
    submitted = bundle(container("main", "trap"))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    terminated = status_of(agent.worker(submitted)).state.terminated
    assert terminated is not None
    assert terminated.exit_code == 134
    assert "boom" in terminated.message


async def test_a_pod_that_is_refused_fails_and_runs_nothing(agent: Agent) -> None:
    submitted = bundle(container("Not_A_Label", "hello"))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    status = agent.worker(submitted).status()
    assert status.reason == "Invalid"
    assert status.message.startswith("Pod was rejected: container 'Not_A_Label'")
    assert status.container_statuses == []
    assert agent.engines.handles == []


def _disruption(grace_seconds: float) -> facts.Verdict:
    return facts.Verdict(
        phase="Failed", reason="Terminated", message="the node goes", at=time.time(), grace_seconds=grace_seconds,
        disrupts=True,
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["Always", "Never"])
async def test_a_pod_that_the_node_ends_fails_with_its_reason(agent: Agent, policy: str) -> None:
    submitted = bundle(container("main", "sleep"), restart_policy=policy, termination_grace_period_seconds=30)
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: worker.status().phase == "Running")
    worker = agent.worker(submitted)
    worker.terminate(_disruption(5.0))
    await worker.ended()
    status = worker.status()
    assert (status.phase, status.reason, status.message) == ("Failed", "Terminated", "the node goes")
    (disruption,) = (each for each in status.conditions if each.type == "DisruptionTarget")
    assert (disruption.status, disruption.reason) == ("True", "TerminationByKubelet")
    stopping = worker.facts.container("main").attempts[-1].stopping
    assert stopping is not None
    assert stopping.reason == "disrupted"
    assert stopping.grace_seconds == pytest.approx(5.0, abs=0.5)  # what is left of it
    worker.terminate(facts.Verdict(phase="Failed", reason="Other", message="", at=0.0))
    assert worker.status().reason == "Terminated"
    await agent.restart()
    assert agent.worker(submitted).status().reason == "Terminated"
    await agent.worker(submitted).ended()


async def test_a_pod_that_had_done_its_work_is_no_failure_of_the_nodes(agent: Agent) -> None:
    submitted = bundle(
        container("main", "exit", "0"),
        init_containers=[container("beside", "sleep", restart_policy="Always")],
        restart_policy="Never",
    )
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: worker.facts.container("main").attempts)
    worker = agent.worker(submitted)
    await agent.until(submitted, lambda worker: worker.facts.container("main").attempts[-1].finished_at)
    worker.terminate(_disruption(5.0))
    await worker.ended()
    assert worker.status().phase == "Succeeded"


async def test_a_node_that_wants_no_pods_refuses_a_new_one(agent: Agent) -> None:
    agent.refusal = Refusal("NodeShutdown", "Pod was rejected as the node is shutting down.")
    submitted = bundle(container("main", "sleep"))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    status = agent.worker(submitted).status()
    assert (status.reason, status.message) == ("NodeShutdown", "Pod was rejected as the node is shutting down.")
    assert status.container_statuses == []
    assert ("Warning", "NodeShutdown") in {(each.kind, each.reason) for each in agent.hub.told}


# --- what others say of a pod -----------------------------------------------------------------------------------------


async def test_the_echo_of_a_status_wakes_nobody_and_the_condition_of_others_does(agent: Agent) -> None:
    gate = ReadinessGate(condition_type="example.com/a")
    submitted = bundle(container("main", "sleep"), readiness_gates=[gate])
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    worker = agent.worker(submitted)
    echo = msgspec.json.decode(msgspec.json.encode(submitted.pod), type=Pod)
    echo.status, echo.metadata.resource_version = worker.status(), "2"
    await eventually(lambda: not worker._changed.is_set(), worker)
    agent.dispatch.update(echo)
    assert not worker._changed.is_set()
    assert worker.bundle.pod is echo
    told = msgspec.json.decode(msgspec.json.encode(echo), type=Pod)
    told.status.conditions.append(PodCondition(type=gate.condition_type, status="True"))
    agent.dispatch.update(told)
    assert worker._changed.is_set()
    assert {each.type: each.status for each in worker.status().conditions}["Ready"] == "True"


# --- another image ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["Always", "Never"])
async def test_another_image_restarts_the_container_and_no_other(agent: Agent, policy: str) -> None:
    submitted = bundle(container("main", "sleep"), container("other", "sleep"), restart_policy=policy)
    agent.dispatch.submit(submitted)
    for name in ("main", "other"):
        await agent.until_running(submitted, name)
    changed = msgspec.json.decode(msgspec.json.encode(submitted.pod), type=Pod)
    changed.spec.containers[0].image = f"file:{guest('lines')}"
    changed.metadata.generation = 2
    agent.dispatch.update(changed)
    await agent.until(submitted, lambda worker: status_of(worker).restart_count == 1)
    assert agent.told("Killing") == ["Container main definition changed, will be restarted"]
    assert agent.attempts(submitted, "other") == [(0, 0)]
    assert status_of(agent.worker(submitted)).image.endswith("lines.wasm")


async def test_another_image_ends_the_wait_for_one_that_is_missing(agent: Agent) -> None:
    agent.back_off = BackOff(initial_seconds=1000, maximum_seconds=1000)
    await agent.restart()
    missing = container("main", "sleep")
    missing.image = "file:/nowhere/missing.wasm"
    submitted = bundle(missing)
    agent.dispatch.submit(submitted)
    await agent.until_waiting(submitted, "ImagePullBackOff")
    changed = msgspec.json.decode(msgspec.json.encode(submitted.pod), type=Pod)
    changed.spec.containers[0].image = f"file:{guest('sleep')}"
    agent.dispatch.update(changed)
    assert (await agent.until_running(submitted)).number == 0


async def test_a_pod_deleted_while_its_image_is_missing_says_that_its_container_was_never_found(agent: Agent) -> None:
    missing = container("main", "sleep")
    missing.image = "file:/nowhere/missing.wasm"
    submitted = bundle(missing)
    agent.dispatch.submit(submitted)
    await agent.until_waiting(submitted, "ImagePullBackOff")
    agent.dispatch.end(submitted.uid, remove=False)
    assert await agent.until_ended(submitted) == "Failed"
    terminated = status_of(agent.worker(submitted)).state.terminated
    assert terminated is not None
    assert (terminated.reason, terminated.exit_code) == ("ContainerStatusUnknown", 137)
    assert terminated.message == "The container could not be located when the pod was terminated"
