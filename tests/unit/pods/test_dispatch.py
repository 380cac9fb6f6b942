"""Which pods there are; an agent that is killed at any moment, and the one after it."""

import functools
import itertools
import os
import shutil
import signal
from collections.abc import Callable

import pytest

from tests.support.agent import Agent, status_of
from tests.support.crashes import Moments
from tests.support.pods import bundle, container, data_volume, flaky, pod
from tests.support.waiting import eventually
from wasmlet.base.errors import ConflictError, NotFoundError, RetryableError, UserError
from wasmlet.kube.types import ExitCodes, Lifecycle, LifecycleHandler, RestartRule, SleepAction
from wasmlet.pods import bundle as bundles
from wasmlet.pods import facts
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.hooks import wanted

SHORT = LifecycleHandler(sleep=SleepAction(seconds=0))

# --- which pods there are ---------------------------------------------------------------------------------------------


async def test_a_uid_is_taken_once(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep"))
    agent.dispatch.submit(submitted)
    again = Bundle(pod=pod(container()), attached=True)
    again.pod.metadata.uid = submitted.uid
    with pytest.raises(ConflictError, match=submitted.uid):
        agent.dispatch.submit(again)
    assert agent.worker(submitted).bundle is submitted


async def test_detached_pods_do_not_share_a_name_and_attached_ones_may(agent: Agent) -> None:
    agent.dispatch.submit(bundle(container("main", "sleep"), name="same"))
    with pytest.raises(ConflictError, match="default/same"):
        agent.dispatch.submit(bundle(container("main", "sleep"), name="same"))
    attached = Bundle(pod=pod(container("main", "sleep"), name="same"), attached=True)
    agent.dispatch.submit(attached)
    agent.dispatch.submit(bundle(container("main", "sleep"), name="same", namespace="other"))
    assert len(agent.dispatch.named("default", "same")) == 2


async def test_pods_of_one_name_live_side_by_side_without_meeting(agent: Agent) -> None:
    """Never keyed by name: the second pod of a name starts from nothing."""
    first = Bundle(pod=pod(container("main", "exit", "3"), name="same"), attached=True)
    second = Bundle(pod=pod(container("main", "exit", "0"), name="same"), attached=True)
    agent.dispatch.submit(first)
    assert await agent.until_ended(first) == "Failed"
    agent.dispatch.submit(second)
    assert await agent.until_ended(second) == "Succeeded"
    assert agent.attempts(first) == [(0, 3)]


async def test_the_end_of_an_unknown_pod_is_not_found(agent: Agent) -> None:
    with pytest.raises(NotFoundError):
        agent.dispatch.end("nobody")
    agent.dispatch.wake("nobody")


@pytest.mark.parametrize("uid", ["", ".", "..", "../elsewhere", "a/b", "a" * 200, "a\n"])
async def test_a_uid_that_is_no_name_is_refused_before_a_path_is_made_of_it(agent: Agent, uid: str) -> None:
    submitted = bundle(container())
    submitted.pod.metadata.uid = uid
    before = sorted(agent.directory.rglob("*"))
    with pytest.raises(UserError):
        agent.dispatch.submit(submitted)
    assert sorted(agent.directory.rglob("*")) == before


async def test_a_full_disk_at_submission_keeps_nothing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles, "save", full)
    submitted = bundle(container())
    with pytest.raises(RetryableError, match="No space left"):
        agent.dispatch.submit(submitted)
    assert not agent.dispatch.has(submitted.uid)
    assert list((agent.directory / "pods").iterdir()) == []


async def test_an_ended_pod_stays_until_it_is_removed(agent: Agent) -> None:
    submitted = bundle(container("main", "hello"))
    agent.dispatch.submit(submitted)
    await agent.until_ended(submitted)
    assert agent.dispatch.is_idle
    agent.dispatch.end(submitted.uid)
    assert not agent.dispatch.has(submitted.uid)
    assert list((agent.directory / "pods").iterdir()) == []
    assert [each for name in ("pools", "logs") for each in (agent.directory / name).glob("*/*")] == []


# --- deletion at awkward times ----------------------------------------------------------------------------------------


async def test_deletion_while_a_module_is_compiled_starts_nothing(agent: Agent) -> None:
    slow = agent.directory / "slow"
    slow.write_text(f'#!/bin/sh\n[ "$1" = compile ] && exec sleep 60\nexec {agent.program} "$@"\n')
    slow.chmod(0o755)
    agent.artifacts._program = slow
    submitted = bundle(container("main", "hello"))
    agent.dispatch.submit(submitted)
    await eventually(lambda: [each for each in agent.hub.progressed if each.stage == "compile"], "compile")
    agent.dispatch.end(submitted.uid, remove=False)
    assert await agent.until_ended(submitted) == "Failed"
    assert agent.attempts(submitted) == []
    assert status_of(agent.worker(submitted)).container_id == ""


async def test_deletion_before_anything_has_happened(agent: Agent) -> None:
    submitted = bundle(container("main", "hello"))
    agent.dispatch.submit(submitted)
    agent.dispatch.end(submitted.uid)
    await eventually(lambda: not agent.dispatch.has(submitted.uid), agent.dispatch)
    assert agent.engines.handles == []


async def test_a_second_deletion_shortens_the_grace(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep"), termination_grace_period_seconds=50)
    worker = agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    agent.dispatch.end(submitted.uid, remove=False)
    agent.dispatch.end(submitted.uid, grace_seconds=100, remove=False)
    assert worker.facts.deletion is not None
    assert worker.facts.deletion.grace_seconds == 50
    agent.dispatch.end(submitted.uid, grace_seconds=2, remove=False)
    assert worker.facts.deletion.grace_seconds == 2
    await agent.until_ended(submitted)


# --- an agent that is killed ------------------------------------------------------------------------------------------


async def test_a_running_container_does_not_notice_a_new_agent(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep"), restart_policy="Always")
    agent.dispatch.submit(submitted)
    before = await agent.until_running(submitted)
    await agent.restart()
    after = await agent.until_running(submitted)
    assert (after.number, after.id, after.started_at) == (0, before.id, before.started_at)
    assert status_of(agent.worker(submitted)).ready


async def test_an_exit_while_no_agent_lives_is_not_lost(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep", "1"), container("other", "exit", "5"))
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: len(agent.output(submitted)))
    places = agent.worker(submitted).places
    await agent.kill()
    await eventually(places.exit_file("main", 0).exists, "exit file")
    await agent.start()
    assert await agent.until_ended(submitted) == "Failed"
    assert agent.attempts(submitted) == [(0, 0)]
    assert agent.attempts(submitted, "other") == [(0, 5)]


async def test_an_exit_is_read_from_its_file_when_the_engine_is_gone_too(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep", "1"))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    places, pid = agent.worker(submitted).places, agent.engines.handles[0].engine.pid
    await agent.kill()
    await eventually(places.exit_file("main", 0).exists, "exit file")
    os.kill(pid, signal.SIGKILL)
    await agent.start()
    assert await agent.until_ended(submitted) == "Succeeded"


async def test_an_engine_that_died_with_the_agent_counts_one_restart(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep"), restart_policy="OnFailure")
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    pid = agent.engines.handles[0].engine.pid
    await agent.kill()
    os.kill(pid, signal.SIGKILL)
    await agent.start()
    assert (await agent.until_running(submitted, number=1)).number == 1
    assert agent.attempts(submitted) == [(0, 137), (1, 0)]


async def test_torn_files_of_a_pod_take_no_other_pod_with_them(agent: Agent) -> None:
    kept, torn = bundle(container("main", "sleep")), bundle(container("main", "sleep"))
    for each in (kept, torn):
        agent.dispatch.submit(each)
        await agent.until_running(each)
    directory = agent.worker(torn).places.record
    await agent.kill()
    (directory / "pod.json").write_bytes(b'{"pod":')
    (directory.parent / "stray").mkdir()
    await agent.start()
    assert not agent.dispatch.has(torn.uid)
    assert (await agent.until_running(kept)).number == 0


async def test_what_is_left_of_unknown_pods_is_ended_and_removed_once_every_source_has_reported(agent: Agent) -> None:
    kept, torn = bundle(container("main", "sleep")), bundle(container("main", "sleep"))
    for each in (kept, torn):
        agent.dispatch.submit(each)
        await agent.until_running(each)
    places = agent.worker(torn).places
    await agent.kill()
    (places.record / "pod.json").unlink()
    await agent.start()
    agent.dispatch.unreported |= {"one", "other"}
    agent.dispatch.reported("one")
    assert places.pod.exists()
    agent.dispatch.reported("other")
    for left in (places.pod, places.logs, places.record):
        await eventually(lambda path=left: not path.exists(), agent.dispatch)  # type: ignore[misc]
    await eventually(lambda: [each.running for each in agent.engines.handles] == [1], agent.engines)
    assert (await agent.until_running(kept)).number == 0


async def test_a_source_that_tells_a_torn_pod_again_gets_its_sandboxes_back(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep"))
    agent.dispatch.submit(submitted)
    before = await agent.until_running(submitted)
    directory = agent.worker(submitted).places.record
    await agent.kill()
    (directory / "pod.json").write_bytes(b"{")
    await agent.start()
    agent.dispatch.submit(submitted)
    assert (await agent.until_running(submitted)).id == before.id
    assert agent.worker(submitted).facts.container("main").attempts[-1].started_at == before.started_at


async def test_torn_facts_start_no_second_sandbox(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep"))
    agent.dispatch.submit(submitted)
    before = await agent.until_running(submitted)
    await agent.kill()
    (agent.directory / "pods" / submitted.uid / "facts.json").write_bytes(b"")
    await agent.start()
    after = await agent.until_running(submitted)
    assert (after.id, after.started_at) == (before.id, before.started_at)


def restart_rule_pod() -> Bundle:
    rule = RestartRule(action="RestartAllContainers", exit_codes=ExitCodes(operator="In", values=[3]))
    main = flaky(2, restart_policy="Never", restart_policy_rules=[rule])
    return bundle(main, init_containers=[container("first", "hello")], volumes=[data_volume()])


def sidecar_pod() -> Bundle:
    side = container("side", "sleep", restart_policy="Always")
    return bundle(container("main", "hello"), init_containers=[side])


def flaky_pod() -> Bundle:
    return bundle(flaky(2), restart_policy="OnFailure", volumes=[data_volume()])


async def until_ended_in_spite_of_kills(agent: Agent, moments: Moments, make: Callable[[], Bundle]) -> list[Bundle]:
    """Run the pod again and again, each time with the agent killed one moment later, until it ends unharmed."""
    bundles = []
    for number in itertools.count(1):
        moments.choose(number)
        submitted = make()
        bundles.append(submitted)
        agent.dispatch.submit(submitted)

        def has_settled(submitted: Bundle = submitted) -> bool:
            return moments.has_come.is_set() or agent.worker(submitted).is_gone

        await eventually(has_settled, moments.names)
        if not moments.has_come.is_set():
            return bundles
        moments.choose(0)
        await agent.restart()
        await agent.until_ended(submitted)
    raise AssertionError


async def test_killed_at_any_moment_a_restarted_container_runs_just_as_often(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in await until_ended_in_spite_of_kills(agent, Moments(monkeypatch), flaky_pod):
        assert agent.worker(each).status().phase == "Succeeded"
        assert agent.attempts(each) == [(0, 3), (1, 0)]
        assert (agent.output(each, number=0), agent.output(each, number=1)) == (b"run 1\n", b"run 2\n")
        assert agent.worker(each).facts.container("main").back_off_seconds == agent.back_off.initial_seconds


async def test_killed_at_any_moment_all_containers_are_restarted_once(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in await until_ended_in_spite_of_kills(agent, Moments(monkeypatch), restart_rule_pod):
        assert agent.worker(each).status().phase == "Succeeded"
        assert agent.attempts(each) == [(0, 3), (1, 0)]
        assert agent.attempts(each, "first") == [(0, 0), (1, 0)]


async def test_killed_at_any_moment_a_sidecar_ends_after_its_pod(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in await until_ended_in_spite_of_kills(agent, Moments(monkeypatch), sidecar_pod):
        assert agent.worker(each).status().phase == "Succeeded"
        assert agent.attempts(each) == [(0, 0)]
        assert agent.attempts(each, "side") == [(0, 143)]


def hooked_pod() -> Bundle:
    hooks = Lifecycle(post_start=SHORT, pre_stop=SHORT)
    side = container("side", "sleep", restart_policy="Always", lifecycle=hooks)
    return bundle(container("main", "sleep", lifecycle=hooks), init_containers=[side])


def plain_pod() -> Bundle:
    return bundle(container("main", "sleep"))


async def test_killed_at_any_moment_a_hook_is_run_before_anything_that_waits_for_it(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> Bundle:
        side = container("side", "sleep", restart_policy="Always", lifecycle=Lifecycle(post_start=SHORT))
        return bundle(container("main", "hello"), init_containers=[side])

    for each in await until_ended_in_spite_of_kills(agent, Moments(monkeypatch), make):
        assert agent.worker(each).status().phase == "Succeeded"
        side, main = (agent.worker(each).facts.container(name).last for name in ("side", "main"))
        assert side is not None
        assert main is not None
        assert side.post_started_at is not None
        assert side.number == 0
        assert main.created_at >= side.post_started_at


@pytest.mark.parametrize("make", [plain_pod, hooked_pod])
async def test_killed_at_any_moment_of_a_deletion_the_pod_ends(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Bundle]
) -> None:
    moments = Moments(monkeypatch)
    for number in itertools.count(1):
        submitted = make()
        agent.dispatch.submit(submitted)
        await agent.until_running(submitted)
        await eventually(functools.partial(is_at_rest, agent, submitted), "saved")
        moments.choose(number)
        agent.dispatch.end(submitted.uid, remove=False)

        def has_settled(submitted: Bundle = submitted) -> bool:
            return moments.has_come.is_set() or agent.worker(submitted).is_gone

        await eventually(has_settled, moments.names)
        killed = moments.has_come.is_set()
        moments.choose(0)
        if killed:
            await agent.restart()
            if agent.worker(submitted).facts.deletion is None:
                assert number == 1, "whoever asked has had no answer"
                agent.dispatch.end(submitted.uid, remove=False)
        assert await agent.until_ended(submitted) == "Failed"
        assert agent.attempts(submitted) == [(0, 143)]
        look_at_order(agent, submitted)
        if not killed:
            assert number > 3
            return


def look_at_order(agent: Agent, submitted: Bundle) -> None:
    """Hooks were done before signals, and the sidecar ended last."""
    own = [each.last for each in agent.worker(submitted).facts.containers.values()]
    for attempt in own:
        assert attempt is not None
        assert attempt.stopping is not None
        assert attempt.stopping.signalled_at is not None
        if len(own) > 1:
            assert attempt.stopping.pre_stopped_at is not None
            assert attempt.stopping.signalled_at >= attempt.stopping.pre_stopped_at
    if len(own) > 1:
        side, main = (agent.worker(submitted).facts.container(name).last for name in ("side", "main"))
        assert side is not None
        assert main is not None
        assert (side.finished_at or 0) >= (main.finished_at or 0)


def is_at_rest(agent: Agent, submitted: Bundle) -> bool:
    """The facts on disk are those in memory, and no hook is under way."""
    worker = agent.worker(submitted)
    has_hooks = any(wanted(submitted.pod, worker.facts))
    return facts.load(worker.places.record) == worker.facts and not has_hooks


async def test_a_pod_whose_removal_was_cut_short_is_removed(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = bundle(container("main", "hello"))
    agent.dispatch.submit(submitted)
    await agent.until_ended(submitted)
    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    agent.dispatch.end(submitted.uid)
    monkeypatch.setattr(shutil, "rmtree", real)
    await agent.restart()
    await eventually(lambda: not agent.dispatch.has(submitted.uid), agent.dispatch)
    assert list((agent.directory / "pods").iterdir()) == []
