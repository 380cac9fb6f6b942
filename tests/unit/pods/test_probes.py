"""Probes: counting without I/O, handlers against real servers, and what they do to a pod."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from tests.support.pods import container, pod
from tests.support.waiting import eventually
from tests.unit.pods.answering import HOST, Server
from wasmlet.base.errors import NotFoundError
from wasmlet.kube.types import (
    Container,
    ContainerPort,
    EnvVar,
    ExecAction,
    GRPCAction,
    HTTPGetAction,
    HTTPHeader,
    Probe,
    TCPSocketAction,
)
from wasmlet.pods.exec import Finished
from wasmlet.pods.facts import Attempt, Facts
from wasmlet.pods.http_get import resolve_port
from wasmlet.pods.probes import Execute, Key, Prober, Result, Tally

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
        async with asyncio.timeout(20):
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
