"""Probes: counting without I/O, handlers against real servers, and what they do to a pod."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.agent import Agent, status_of
from tests.support.guests import guest
from tests.support.pods import bundle, container, data_volume, pod
from tests.support.waiting import eventually
from wasmlet.base.errors import NotFoundError
from wasmlet.kube.types import (
    Container,
    ContainerPort,
    EnvVar,
    ExecAction,
    GRPCAction,
    HTTPGetAction,
    HTTPHeader,
    Lifecycle,
    LifecycleHandler,
    Probe,
    SleepAction,
    TCPSocketAction,
    VolumeMount,
)
from wasmlet.pods.exec import Finished
from wasmlet.pods.facts import Attempt, Facts
from wasmlet.pods.http_get import resolve_port
from wasmlet.pods.probes import Execute, Key, Prober, Result, Tally

HOST = "127.0.0.1"

# --- counting ---------------------------------------------------------------------------------------------------------

S, F, U = Result.SUCCESS, Result.FAILURE, Result.UNKNOWN


@pytest.mark.parametrize(
    ("success", "failure", "results", "verdicts"),
    [
        (1, 3, [F, F, F, F], [None, None, F, F]),
        (1, 3, [F, F, S, F, F, F], [None, None, S, None, None, F]),
        (2, 1, [S, S, F, S], [None, S, F, None]),
        (1, 2, [F, U, F], [None, None, F]),
        (1, 1, [U, U], [None, None]),
    ],
)
def test_thresholds(success: int, failure: int, results: list[Result], verdicts: list[Result | None]) -> None:
    tally = Tally(success, failure)
    assert [tally.add(result) for result in results] == verdicts


@pytest.mark.parametrize(
    ("port", "number"),
    [(80, 80), ("8080", 8080), ("web", 9090), ("none", None), ("\N{SUPERSCRIPT TWO}", None)],
)
def test_ports(port: int | str, number: int | None) -> None:
    named = Container(name="c", ports=[ContainerPort(name="web", container_port=9090)])
    assert resolve_port(named, port) == number


# --- handlers ---------------------------------------------------------------------------------------------------------


class Server:
    """An HTTP server whose answer can be changed."""

    def __init__(self) -> None:
        self.status = 200
        self.port = 0
        self.requests: list[tuple[str, dict[str, str]]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, {name.lower(): value for name, value in request.headers.items()}))
        if request.path == "/slow":
            await asyncio.sleep(30)
        if request.path == "/elsewhere":
            raise web.HTTPFound("http://host.invalid/")
        if request.path == "/redirect":
            raise web.HTTPFound("/")
        return web.Response(status=self.status, body=b"x" * 100_000)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server().running() as server:
        yield server


async def run_nothing(_container: str, _command: Sequence[str], _seconds: float) -> Finished:
    raise NotFoundError("there is no such program")


async def first_report(probe: Probe, execute: Execute = run_nothing, **fields: object) -> tuple[Result, str]:
    """What a readiness probe reports first."""
    reports: asyncio.Queue[tuple[Result, str]] = asyncio.Queue()
    prober = Prober(
        report=lambda _key, result, text: reports.put_nowait((result, text)), execute=execute, period_scale=0.001
    )
    made = pod(container("main", "hello", readiness_probe=probe, **fields))
    facts = Facts(uid="u", seen_at=0, pod_ips=[HOST])
    facts.container("main").attempts.append(Attempt(number=0, id="s", engine="e", created_at=1, started_at=1))
    prober.sync(made, facts, fresh=True)
    try:
        async with asyncio.timeout(10):
            return await reports.get()
    finally:
        await prober.close()


def http(port: int | str, path: str = "", **fields: object) -> Probe:
    action = HTTPGetAction(port=port, path=path, **fields)  # type: ignore[arg-type]
    return Probe(http_get=action, failure_threshold=1)


@pytest.mark.parametrize(("status", "result"), [(200, S), (204, S), (399, S), (400, F), (404, F), (500, F), (302, S)])
async def test_http_statuses(server: Server, status: int, result: Result) -> None:
    server.status = status
    assert await first_report(http(server.port)) == (
        result,
        "" if result is S else f"HTTP probe failed with statuscode: {status}",
    )


async def test_http_asks_as_a_kubelet_does(server: Server) -> None:
    await first_report(http(server.port, "healthz?a=b"))
    path, headers = server.requests[0]
    assert path == "/healthz?a=b"
    assert headers["user-agent"].startswith("kube-probe/1.")
    assert headers["accept"] == "*/*"


async def test_http_headers_replace_and_remove(server: Server) -> None:
    headers = [HTTPHeader(name="Host", value="example.test"), HTTPHeader(name="X-Own", value="1"),
               HTTPHeader(name="user-agent", value=""), HTTPHeader(name="Accept", value="text/plain")]  # fmt: skip
    await first_report(http(server.port, http_headers=headers))
    _, seen = server.requests[0]
    assert (seen["host"], seen["x-own"], seen["accept"]) == ("example.test", "1", "text/plain")
    assert "user-agent" not in seen


async def test_http_follows_to_the_same_host_only(server: Server) -> None:
    assert (await first_report(http(server.port, "/redirect")))[0] is S
    assert [path for path, _ in server.requests] == ["/redirect", "/"]
    assert (await first_report(http(server.port, "/elsewhere")))[0] is S


async def test_http_that_nobody_answers_is_a_failure() -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        result, text = await first_report(http(free.getsockname()[1]))
    assert result is F
    assert text.startswith("Get ")


async def test_an_answer_that_does_not_come_is_a_failure(server: Server) -> None:
    probe = http(server.port, "/slow")
    assert await first_report(probe) == (F, "no answer within 1 s")


@pytest.mark.parametrize("port", ["nobody", 0, 70000, -1])
async def test_a_port_that_is_none_kills_no_prober(port: int | str) -> None:
    for probe in (http(port), Probe(tcp_socket=TCPSocketAction(port=port), failure_threshold=1)):
        result, text = await first_report(probe)
        assert result is not S
        assert text


async def test_tcp(server: Server) -> None:
    probe = Probe(tcp_socket=TCPSocketAction(port="web"), failure_threshold=1)
    ports = [ContainerPort(name="web", container_port=server.port)]
    assert await first_report(probe, ports=ports) == (S, "")
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
        result, text = await first_report(Probe(tcp_socket=TCPSocketAction(port=port), failure_threshold=1))
    assert result is F
    assert text.startswith(f"dial tcp {HOST}:{port}: ")


class Executor:
    """Stands for a container in which every command ends the same way."""

    def __init__(self, ends: Finished | Exception) -> None:
        self.ends = ends
        self.asked: list[tuple[str, list[str], float]] = []

    async def __call__(self, container: str, command: Sequence[str], seconds: float) -> Finished:
        self.asked.append((container, list(command), seconds))
        if isinstance(self.ends, Exception):
            raise self.ends
        return self.ends


@pytest.mark.parametrize(
    ("ends", "result", "text"),
    [
        (Finished(0, "fine"), S, ""),
        (Finished(1, "not yet"), F, "not yet"),
        (Finished(134, "unreachable"), F, "unreachable"),
        (TimeoutError(), F, 'command timed out: "cat here $(NONE)" timed out after 2s'),
        (NotFoundError("no cat", hint="bring one"), U, "no cat"),
    ],
)
async def test_exec(ends: Finished | Exception, result: Result, text: str) -> None:
    executor = Executor(ends)
    action = ExecAction(command=["cat", "$(PLACE)", "$(NONE)"])
    env = [EnvVar(name="PLACE", value="here")]
    found, said = await first_report(Probe(exec=action, timeout_seconds=2, failure_threshold=1), executor, env=env)
    assert found is result
    assert said == text or (result is U and said.startswith(text))
    # An error of the prober's own is tried three times; a failure of the container is one.
    assert executor.asked[: 3 if result is U else 1] == [("main", ["cat", "here", "$(NONE)"], 2)] * (
        3 if result is U else 1
    )


@pytest.mark.parametrize("probe", [Probe(grpc=GRPCAction(port=1)), Probe()])
async def test_what_cannot_be_run_is_an_error_and_no_success(probe: Probe) -> None:
    result, text = await first_report(probe)
    assert result is U
    assert "cannot be run" in text


@pytest.mark.parametrize("period", [0, -5])
async def test_a_period_that_is_none_makes_no_busy_loop(server: Server, period: int) -> None:
    """The API server makes 0 the default, 10 s; a manifest comes here as it is."""
    reports: list[Key] = []
    prober = Prober(report=lambda key, *_: reports.append(key), execute=run_nothing, period_scale=0.01)
    made = pod(
        container(
            "main", "hello", readiness_probe=Probe(http_get=HTTPGetAction(port=server.port), period_seconds=period)
        )
    )
    facts = Facts(uid="u", seen_at=0, pod_ips=[HOST])
    facts.container("main").attempts.append(Attempt(number=0, id="s", engine="e", created_at=1, started_at=1))
    prober.sync(made, facts, fresh=True)
    await eventually(lambda: len(reports) >= 2, reports)
    began = asyncio.get_running_loop().time()
    await eventually(lambda: len(reports) >= 4, reports)
    assert asyncio.get_running_loop().time() - began > 0.09
    await prober.close()


# --- what they do to a pod --------------------------------------------------------------------------------------------


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
