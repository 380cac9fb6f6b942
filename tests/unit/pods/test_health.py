"""What probes and hooks do to a pod."""

import asyncio
import shutil
import time
from pathlib import Path

from tests.support.agent import Agent, status_of
from tests.support.guests import guest
from tests.support.pods import bundle, container, data_volume
from tests.support.waiting import eventually
from tests.unit.pods.answering import HOST, Server
from wasmlet.kube.types import (
    ExecAction,
    HTTPGetAction,
    Lifecycle,
    LifecycleHandler,
    Probe,
    SleepAction,
    VolumeMount,
)


def at(server: Server, **fields: object) -> Probe:
    action = HTTPGetAction(port=server.port, host=HOST)
    return Probe(http_get=action, period_seconds=1, **fields)  # type: ignore[arg-type]


def conditions(agent: Agent, submitted: object) -> dict[str, tuple[str, str]]:
    status = agent.worker(submitted).status()  # type: ignore[arg-type]
    return {each.type: (each.status, each.message) for each in status.conditions}


async def test_readiness_comes_and_goes(agent: Agent, server: Server) -> None:
    server.status = 500
    submitted = bundle(container("main", "sleep", readiness_probe=at(server, failure_threshold=2)))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    await eventually(lambda: len(server.requests) > 3, "requests")
    assert not status_of(agent.worker(submitted)).ready
    assert status_of(agent.worker(submitted)).started
    assert conditions(agent, submitted)["Ready"] == ("False", "containers with unready status: [main]")
    server.status = 200
    await agent.until(submitted, lambda worker: status_of(worker).ready)
    assert conditions(agent, submitted)["ContainersReady"] == ("True", "")
    server.status = 500
    await agent.until(submitted, lambda worker: not status_of(worker).ready)
    assert "Readiness probe failed: HTTP probe failed with statuscode: 500" in agent.told("Unhealthy")
    assert status_of(agent.worker(submitted)).restart_count == 0


async def test_a_redirect_to_another_host_is_told(agent: Agent, server: Server) -> None:
    probe = at(server)
    assert probe.http_get is not None
    probe.http_get.path = "/elsewhere"
    submitted = bundle(container("main", "sleep", readiness_probe=probe))
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: status_of(worker).ready)
    assert agent.told("ProbeWarning")


async def test_a_new_agent_keeps_readiness(agent: Agent, server: Server) -> None:
    submitted = bundle(container("main", "sleep", readiness_probe=at(server)))
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: status_of(worker).ready)
    server.status = 500
    await agent.kill()
    await agent.start()
    assert status_of(agent.worker(submitted)).ready
    await agent.until(submitted, lambda worker: not status_of(worker).ready)


async def test_liveness_kills_and_the_policy_restarts(agent: Agent, server: Server) -> None:
    submitted = bundle(container("main", "sleep", liveness_probe=at(server)), restart_policy="Always")
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    server.status = 500
    await agent.until_running(submitted, number=1)
    server.status = 200
    assert "Container main failed liveness probe, will be restarted" in agent.told("Killing")
    assert "Liveness probe failed: HTTP probe failed with statuscode: 500" in agent.told("Unhealthy")
    last = status_of(agent.worker(submitted)).last_state.terminated
    assert last is not None
    assert last.exit_code == 143


async def test_liveness_fails_a_pod_that_never_restarts(agent: Agent, server: Server) -> None:
    server.status = 500
    submitted = bundle(container("main", "sleep", liveness_probe=at(server)))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"


async def test_startup_holds_the_others_back(agent: Agent, server: Server) -> None:
    server.status = 500
    submitted = bundle(
        container(
            "main", "sleep",
            startup_probe=at(server, failure_threshold=1000),
            liveness_probe=at(server, failure_threshold=1),
            readiness_probe=at(server),
        )
    )  # fmt: skip
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    await eventually(lambda: len(server.requests) > 5, "requests")
    status = status_of(agent.worker(submitted))
    assert (status.started, status.ready, status.restart_count) == (False, False, 0)
    server.status = 200
    await agent.until(submitted, lambda worker: status_of(worker).ready)
    assert status_of(agent.worker(submitted)).started


async def test_startup_that_never_succeeds_kills(agent: Agent, server: Server) -> None:
    server.status = 500
    submitted = bundle(container("main", "sleep", startup_probe=at(server)), restart_policy="Always")
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted, number=1)
    assert "Container main failed startup probe, will be restarted" in agent.told("Killing")


async def test_the_next_container_waits_for_a_sidecars_startup(agent: Agent, server: Server) -> None:
    server.status = 500
    side = container("side", "sleep", restart_policy="Always", startup_probe=at(server, failure_threshold=1000))
    submitted = bundle(container("main", "hello"), init_containers=[side])
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted, "side")
    await eventually(lambda: len(server.requests) > 2, "requests")
    assert agent.attempts(submitted) == []
    server.status = 200
    assert await agent.until_ended(submitted) == "Succeeded"


async def test_while_a_pod_ends_readiness_goes_on_and_liveness_kills_nobody(agent: Agent, server: Server) -> None:
    hooks = Lifecycle(pre_stop=LifecycleHandler(sleep=SleepAction(seconds=1000)))
    main = container(
        "main", "sleep", lifecycle=hooks, readiness_probe=at(server), liveness_probe=at(server, failure_threshold=1)
    )
    submitted = bundle(main)
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: status_of(worker).ready)
    agent.dispatch.end(submitted.uid, grace_seconds=1000, remove=False)
    await agent.until(submitted, lambda worker: (last := worker.facts.container("main").last) and last.stopping)
    server.status = 500
    await agent.until(submitted, lambda worker: not status_of(worker).ready)
    last = agent.worker(submitted).facts.container("main").last
    assert last is not None
    assert last.unhealthy is None
    assert agent.told("Killing") == ["Stopping container main"]


async def test_no_probe_runs_before_the_post_start_hook_is_done(agent: Agent, server: Server) -> None:
    hooks = Lifecycle(post_start=LifecycleHandler(sleep=SleepAction(seconds=1000)))
    probe = at(server)
    main = container(
        "main", "sleep", lifecycle=hooks, readiness_probe=probe, liveness_probe=probe, startup_probe=probe
    )  # fmt: skip
    submitted = bundle(main)
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    await asyncio.sleep(0.2)
    assert server.requests == []
    shown = status_of(agent.worker(submitted))
    assert shown.state.running is not None
    assert (shown.started, shown.ready) == (False, False)


async def test_an_exec_probe_runs_a_module_of_the_container(agent: Agent) -> None:
    probe = Probe(exec=ExecAction(command=["/data/files.wasm", "cat", "/data/healthy"]), failure_threshold=1)
    mounts = [VolumeMount(name="data", mount_path="/data")]
    main = container("main", "sleep", readiness_probe=probe, volume_mounts=mounts)
    submitted = bundle(main, volumes=[data_volume()])
    agent.dispatch.submit(submitted)
    attempt = await agent.until_running(submitted)
    await eventually(lambda: agent.told("Unhealthy"), "an error of the probe")
    assert (
        "Readiness probe errored and resulted in unknown state: /data/files.wasm is not in"
        in agent.told("Unhealthy")[0]
    )
    data = Path(next(each.root for each in attempt.directories if each.guest_path == "/data"))
    (data / "healthy").write_text("x" * 50_000)
    shutil.copy(guest("files"), data / "new.wasm")
    (data / "new.wasm").rename(data / "files.wasm")
    await agent.until(submitted, lambda worker: status_of(worker).ready)
    (data / "healthy").unlink()
    await agent.until(submitted, lambda worker: not status_of(worker).ready)
    assert (
        agent.told("Unhealthy")[-1] == "Readiness probe failed: files: cat /data/healthy: No such file or directory\n"
    )
    assert b"files:" not in agent.output(submitted), "a probe's output is nobody's log"


async def test_an_exec_probe_that_takes_too_long_fails_and_is_ended(agent: Agent) -> None:
    probe = Probe(exec=ExecAction(command=["spin", "1000"]), timeout_seconds=1, failure_threshold=1)
    submitted = bundle(container("main", "spin", liveness_probe=probe), restart_policy="Never")
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    text = 'Liveness probe failed: command timed out: "spin 1000" timed out after 1s'
    assert text in agent.told("Unhealthy")


# --- hooks ------------------------------------------------------------------------------------------------------------


BROKEN = LifecycleHandler(http_get=HTTPGetAction(host="127.0.0.1", port=1))


def sleeping(seconds: int) -> LifecycleHandler:
    return LifecycleHandler(sleep=SleepAction(seconds=seconds))


def command(*words: str) -> LifecycleHandler:
    return LifecycleHandler(exec=ExecAction(command=list(words)))


async def test_a_failed_post_start_hook_kills_the_container_and_says_so(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep", lifecycle=Lifecycle(post_start=BROKEN)), restart_policy="Always")
    agent.dispatch.submit(submitted)
    await agent.until(submitted, lambda worker: status_of(worker).restart_count >= 1)
    assert agent.told("FailedPostStartHook")[0] == "PostStartHook failed"
    assert agent.told("Killing")[0] == "FailedPostStartHook"
    assert not status_of(agent.worker(submitted)).ready


async def test_a_pod_that_never_restarts_fails_with_its_post_start_hook(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep", lifecycle=Lifecycle(post_start=BROKEN)))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    assert agent.attempts(submitted) == [(0, 143)]


async def test_exec_hooks_run_in_the_container(agent: Agent) -> None:
    hooks = Lifecycle(post_start=command("sleep", "0"), pre_stop=command("/bin/sh", "-c", "true"))
    submitted = bundle(container("main", "sleep", lifecycle=hooks))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    await agent.until(submitted, lambda worker: status_of(worker).ready)
    agent.dispatch.end(submitted.uid, remove=False)
    await agent.until_ended(submitted)
    assert agent.attempts(submitted) == [(0, 143)]
    assert agent.told("FailedPostStartHook") == []
    (text,) = agent.told("FailedPreStopHook")
    assert text.startswith("PreStopHook failed: /bin/sh is not in container 'main'"), (
        "there is no shell, and it says so"
    )


async def test_a_container_whose_exec_hook_fails_is_killed(agent: Agent) -> None:
    submitted = bundle(container("main", "spin", lifecycle=Lifecycle(post_start=command("/bin/cat"))))
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    assert agent.told("FailedPostStartHook")[0].startswith("PostStartHook failed: /bin/cat is not in")


async def test_a_pre_stop_command_that_does_not_end_has_the_grace_and_no_more(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep", lifecycle=Lifecycle(pre_stop=command("sleep"))))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    begun = time.monotonic()
    agent.dispatch.end(submitted.uid, grace_seconds=1, remove=False)
    await agent.until_ended(submitted)
    assert 0.9 < time.monotonic() - begun < 20
    assert agent.told("FailedPreStopHook") == []


async def test_a_failed_pre_stop_hook_is_told_and_the_kill_proceeds(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep", lifecycle=Lifecycle(pre_stop=BROKEN)))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    agent.dispatch.end(submitted.uid, remove=False)
    await agent.until_ended(submitted)
    assert agent.told("FailedPreStopHook") == ["PreStopHook failed"]
    assert agent.told("Killing") == ["Stopping container main"]
    assert agent.attempts(submitted) == [(0, 143)]


async def test_a_pre_stop_hook_delays_the_signal_and_the_readiness_probe_goes_on(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep", lifecycle=Lifecycle(pre_stop=sleeping(1))))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    begun = time.monotonic()
    agent.dispatch.end(submitted.uid, grace_seconds=1000, remove=False)
    await agent.until(submitted, lambda worker: (last := worker.facts.container("main").last) and last.stopping)
    assert status_of(agent.worker(submitted)).ready
    await agent.until_ended(submitted)
    assert 1 <= time.monotonic() - begun < 20
    assert agent.told("FailedPreStopHook") == []


async def test_a_pre_stop_hook_in_flight_is_cut_off_by_a_shorter_grace(agent: Agent) -> None:
    submitted = bundle(container("main", "sleep", lifecycle=Lifecycle(pre_stop=sleeping(1000))))
    agent.dispatch.submit(submitted)
    await agent.until_running(submitted)
    agent.dispatch.end(submitted.uid, grace_seconds=1000, remove=False)
    await agent.until(submitted, lambda worker: (last := worker.facts.container("main").last) and last.stopping)
    agent.dispatch.end(submitted.uid, grace_seconds=1, remove=False)
    await agent.until_ended(submitted)
    assert agent.told("Killing") == ["Stopping container main"]
