"""postStart and preStop hooks against real servers (kubelet-contract 4.8)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Sequence

import pytest
import trustme
from aiohttp import web

from tests.support.pods import container, pod
from tests.support.waiting import eventually
from wasmlet.base.clock import system_clock
from wasmlet.base.errors import NotFoundError
from wasmlet.kube.types import (
    ContainerPort,
    ExecAction,
    HTTPGetAction,
    HTTPHeader,
    Lifecycle,
    LifecycleHandler,
    SleepAction,
    TCPSocketAction,
)
from wasmlet.pods.exec import Finished
from wasmlet.pods.facts import Attempt, Facts, Stopping
from wasmlet.pods.hooks import HookKey, Hooks, Outcome, wanted


class Peer:
    """A server that answers everything, and what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.asked: list[web.BaseRequest] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request)
        return web.Response(status=self.status)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
        peer = cls()
        runner = web.ServerRunner(web.Server(peer.answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        peer.port = runner.addresses[0][1]
        try:
            yield peer
        finally:
            await runner.cleanup()


async def execute(container: str, command: Sequence[str]) -> Finished:
    """Runs `exit CODE` and nothing else."""
    if command[0] != "exit":
        raise NotFoundError(f"there is no program {command[0]} in container {container!r}")
    return Finished(int(command[1]), "its output")


async def outcome_of(handler: LifecycleHandler, *, since: float | None = None) -> Outcome:
    """What becomes of a postStart hook."""
    found: list[Outcome] = []
    main = container("main", lifecycle=Lifecycle(post_start=handler), ports=[ContainerPort(name="web")])
    facts = facts_of(started_at=system_clock() if since is None else since)
    hooks = Hooks(report=lambda _, outcome: found.append(outcome), execute=execute, clock=system_clock)
    hooks.sync(pod(main), facts)
    hooks.sync(pod(main), facts)
    try:
        await eventually(lambda: found, hooks)
        return found[0]
    finally:
        await hooks.close()


def facts_of(**fields: object) -> Facts:
    attempt = Attempt(**{"number": 0, "id": "s", "engine": "e", "created_at": 1.0} | fields)  # type: ignore[arg-type]
    facts = Facts(uid="u", seen_at=1.0, pod_ips=["127.0.0.1"])
    facts.container("main").attempts.append(attempt)
    return facts


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_any_answer_is_a_success(status: int) -> None:
    async with Peer.running() as peer:
        peer.status = status
        assert await outcome_of(LifecycleHandler(http_get=HTTPGetAction(port=peer.port, path="done?x=1"))) == Outcome()
        (request,) = peer.asked
        assert request.path_qs == "/done?x=1"
        assert request.headers["User-Agent"] == "kube-lifecycle/1.36"
        assert request.headers["Accept"] == "*/*"


async def test_nobody_there_is_a_failure() -> None:
    async with Peer.running() as peer:
        port = peer.port
    outcome = await outcome_of(LifecycleHandler(http_get=HTTPGetAction(port=port)))
    assert not outcome.told
    assert str(port) in outcome.error


async def test_certificates_are_not_checked() -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("elsewhere.test").configure_cert(server)
    async with Peer.running(server) as peer:
        action = HTTPGetAction(port=peer.port, scheme="HTTPS")
        assert await outcome_of(LifecycleHandler(http_get=action)) == Outcome()
        assert len(peer.asked) == 1


async def test_https_against_a_plain_server_is_tried_again_without_credentials() -> None:
    async with Peer.running() as peer:
        headers = [HTTPHeader(name="Authorization", value="secret"), HTTPHeader(name="X-Mine", value="kept")]
        action = HTTPGetAction(port=peer.port, scheme="HTTPS", http_headers=headers)
        outcome = await outcome_of(LifecycleHandler(http_get=action))
        assert outcome == Outcome(fallback_host=f"127.0.0.1:{peer.port}")
        (request,) = peer.asked
        assert "Authorization" not in request.headers
        assert request.headers["X-Mine"] == "kept"


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (LifecycleHandler(tcp_socket=TCPSocketAction(port=80)), "invalid handler"),
        (LifecycleHandler(), "invalid handler"),
        (LifecycleHandler(http_get=HTTPGetAction(port="nameless")), "'nameless' is no port"),
        (LifecycleHandler(http_get=HTTPGetAction(port="web")), "'web' is no port"),
    ],
)
async def test_what_cannot_be_a_hook(handler: LifecycleHandler, text: str) -> None:
    assert text in (await outcome_of(handler)).error


async def test_commands() -> None:
    def command(*words: str) -> LifecycleHandler:
        return LifecycleHandler(exec=ExecAction(command=list(words)))

    assert await outcome_of(command("exit", "0")) == Outcome()
    failed = await outcome_of(command("exit", "7"))
    assert failed == Outcome(error="command 'exit 7' exited with 7: its output", told="command 'exit 7' exited with 7")
    missing = "there is no program sh in container 'main'"
    assert await outcome_of(command("sh", "-c", "true")) == Outcome(error=missing, told=missing)


async def test_no_sleep_takes_no_time() -> None:
    assert await outcome_of(LifecycleHandler(sleep=SleepAction())) == Outcome()


async def test_a_sleep_goes_on_where_an_earlier_agent_left_it() -> None:
    begun = time.monotonic()
    assert (
        await outcome_of(LifecycleHandler(sleep=SleepAction(seconds=1000)), since=system_clock() - 999.8) == Outcome()
    )
    assert 0.1 < time.monotonic() - begun < 10


async def test_a_hook_that_is_not_wanted_any_more_is_given_up() -> None:
    found: list[HookKey] = []
    main = container("main", lifecycle=Lifecycle(post_start=LifecycleHandler(sleep=SleepAction(seconds=1000))))
    facts = facts_of(started_at=system_clock())
    hooks = Hooks(execute=execute, report=lambda key, _: found.append(key), clock=system_clock)
    hooks.sync(pod(main), facts)
    facts.containers["main"].attempts[0].finished_at = 2.0
    hooks.sync(pod(main), facts)
    await asyncio.sleep(0)
    assert repr(hooks) == "<Hooks []>"
    await hooks.close()
    assert found == []


SLEEP = LifecycleHandler(sleep=SleepAction(seconds=1))
BOTH = Lifecycle(post_start=SLEEP, pre_stop=SLEEP)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({}, []),
        ({"started_at": 2.0}, ["postStart"]),
        ({"started_at": 2.0, "post_started_at": 3.0}, []),
        ({"started_at": 2.0, "finished_at": 3.0}, []),
        ({"started_at": 2.0, "stopping": Stopping(at=3.0, grace_seconds=9.0, reason="deleted")}, ["preStop"]),
        ({"started_at": 2.0, "stopping": Stopping(at=3.0, grace_seconds=0.0, reason="restart-all")}, []),
        (
            {"started_at": 2.0, "stopping": Stopping(at=3.0, grace_seconds=9.0, reason="deleted", signalled_at=4.0)},
            [],
        ),
        (
            {"started_at": 2.0, "stopping": Stopping(at=3.0, grace_seconds=9.0, reason="deleted", pre_stopped_at=4.0)},
            [],
        ),
        ({"stopping": Stopping(at=3.0, grace_seconds=9.0, reason="deleted")}, []),
    ],
)
def test_which_hook_is_under_way(fields: dict[str, object], kinds: list[str]) -> None:
    main = container("main", lifecycle=BOTH)
    assert [key.kind for key, _ in wanted(pod(main), facts_of(**fields))] == kinds
