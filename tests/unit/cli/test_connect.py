"""Finding the agent of a state directory, or starting one."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.agent import Agent as InProcess
from tests.support.command import Command
from tests.support.disks import small_disk
from tests.support.guests import guest
from tests.support.waiting import eventually
from wasmlet.agent import held_state
from wasmlet.base.errors import ConflictError, Fault, NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.cli import connect
from wasmlet.cli.connect import Agent, AgentAwayError
from wasmlet.config import Config, File
from wasmlet.server.hub import Hub
from wasmlet.server.local import LocalServer, error_document
from wasmlet.server.statuses import http_status


@pytest.fixture
def config(state_directory: Path) -> Config:
    return Config(state=state_directory, file=File())


class OldAgent:
    """Answers as an agent of another release; or as the test says."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b'{"version": "0.0.1", "pid": 4711}'
        self.paths: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.paths.append(request.path_qs)
        return web.Response(status=self.status, body=self.body)


@pytest.fixture
async def old(state_directory: Path) -> AsyncIterator[OldAgent]:
    agent = OldAgent()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", agent.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.UnixSite(runner, str(state_directory / "agent.sock")).start()
    yield agent
    await runner.cleanup()


async def test_another_release_is_refused_with_what_to_do(old: OldAgent, config: Config) -> None:
    with pytest.raises(ConflictError, match=r"0\.0\.1") as refusal:
        await connect.reach(config)
    assert "kill 4711" in (refusal.value.hint or "")


async def test_an_answer_without_a_reason_is_shown(old: OldAgent, config: Config) -> None:
    old.status, old.body = 500, b"oops"
    with pytest.raises(WasmletError, match="500: oops"):
        await Agent(config).call("GET", "/pods", list[Any])


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (NotFoundError("m", hint="h"), 404, NotFoundError),
        (ConflictError("m"), 409, ConflictError),
        (UserError("m"), 400, UserError),
        (RetryableError("m"), 503, RetryableError),
        (WasmletError("m", reason="Own"), 500, WasmletError),
    ],
)
async def test_errors_cross_the_socket_as_they_are(
    old: OldAgent, config: Config, error: WasmletError, status: int, kind: type[WasmletError]
) -> None:
    import msgspec

    assert http_status(error) == status
    old.status, old.body = status, msgspec.json.encode(error_document(error))
    with pytest.raises(WasmletError) as seen:
        await Agent(config).call("GET", "/pods", list[Any])
    assert type(seen.value) is kind
    assert (seen.value.message, seen.value.hint, seen.value.reason) == (error.message, error.hint, error.reason)
    assert isinstance(seen.value.fault, Fault)


async def test_nobody_there(config: Config, tmp_path: Path) -> None:
    with pytest.raises(AgentAwayError):
        await Agent(config).call("GET", "/version", dict[str, Any])
    with pytest.raises(AgentAwayError):
        await Agent(Config(state=tmp_path / "none", file=File())).call("GET", "/version", dict[str, Any])
    assert await connect.find(config) is None


async def test_an_agent_that_holds_the_directory_and_answers_late_is_waited_for(
    agent: InProcess, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when two commands start one at the same time, and the faster one's has much to take up."""
    monkeypatch.setenv("PYTHONPATH", "src")
    with held_state(config):
        reaching = asyncio.create_task(connect.reach(config))  # noqa: TID251  # the test owns it
        log = config.state / connect.LOG_NAME
        await eventually(lambda: log.exists() and log.read_bytes().count(b"another agent") > 0, log)
        server = LocalServer(agent.dispatch, Hub(), engines=config.state / "engines", on_request=lambda: None)
        await server.start(config.state)
        reached = await reaching
        assert (await reached.call("GET", "/version", dict[str, Any]))["pid"] == os.getpid()
        await server.close()


async def test_an_agent_that_cannot_start_is_explained(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "src")
    monkeypatch.setenv("WASMLET_ENGINE", "/nowhere/engine")
    with pytest.raises(WasmletError, match="WASMLET_ENGINE names /nowhere/engine") as failure:
        await connect.reach(config)
    assert str(config.state / connect.LOG_NAME) in (failure.value.hint or "")


def test_a_state_directory_that_cannot_be_made(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command.state = tmp_path / "file" / "state"
    result = command.run("run", str(guest("hello")))
    assert result.returncode == 2
    assert b"cannot use the state directory" in result.stderr
    assert b"--state" in result.stderr


def test_an_agent_that_cannot_even_say_why_it_does_not_start(command: Command, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="64k") as disk:
        command.state = disk / "state"
        with contextlib.suppress(OSError), (disk / "full").open("wb", buffering=0) as full:
            while full.write(bytes(4096)):
                pass
        result = command.run("run", str(guest("hello")))
        assert result.returncode == 1
        assert b"the agent could not start, nor write why to" in result.stderr
        assert b"see to the disk and its space" in result.stderr


def test_a_deep_state_directory_is_no_matter(command: Command) -> None:
    command.state = command.state / ("deep" * 20) / ("deeper" * 20)
    assert command.run("run", str(guest("hello"))).stdout == b"hello\n"


def test_a_nodes_state_is_not_served_by_the_way(command: Command) -> None:
    (command.state / "kubeconfig").write_text("{}")
    refused = command.run("run", str(guest("hello")))
    assert refused.returncode == 2
    assert b"wasmlet node" in refused.stderr


async def test_an_agent_that_takes_a_question_and_never_answers(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "ANSWER_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(config.state / connect.SOCKET_NAME))
        silent.listen()
        for ask in (connect.find, connect.reach):
            with pytest.raises(RetryableError, match=r"has not answered for 0.2 s; see .*agent.log"):
                await ask(config)
