"""The terminal's API, spoken to over its socket."""

import stat
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.support.agent import Agent
from tests.support.pods import bundle, container
from tests.support.waiting import eventually
from wasmlet import __version__
from wasmlet.pods.accounts import Account, Frame
from wasmlet.server.local import SOCKET_NAME, LocalServer


class Client:
    """An HTTP client of one server."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.requests = 0

    async def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        async with self.session.request(method, f"http://agent{path}", data=body) as response:
            content = await response.read()
            return response.status, msgspec.json.decode(content) if content else None

    def touched(self) -> None:
        self.requests += 1


@pytest.fixture
async def client(agent: Agent) -> AsyncIterator[Client]:
    connector = aiohttp.UnixConnector(str(agent.directory / SOCKET_NAME))
    async with aiohttp.ClientSession(connector=connector) as session:
        made = Client(session)
        server = LocalServer(agent.dispatch, agent.hub, engines=agent.directory / "engines", on_request=made.touched)
        (agent.directory / SOCKET_NAME).write_text("left by an agent that is gone")
        await server.start(agent.directory)
        yield made
        await server.close()


async def test_the_socket_is_its_owners_only(agent: Agent, client: Client) -> None:
    mode = (agent.directory / SOCKET_NAME).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert (await client.call("GET", "/version"))[1]["version"] == __version__
    assert client.requests == 1


async def test_a_pods_life(agent: Agent, client: Client) -> None:
    submitted = bundle(container("main", "sleep"))
    status, made = await client.call("POST", "/pods", msgspec.json.encode(submitted))
    assert (status, made["pod"]["metadata"]["uid"]) == (201, submitted.uid)
    await agent.until_running(submitted)
    _, listed = await client.call("GET", "/pods")
    assert [each["pod"]["metadata"]["uid"] for each in listed] == [submitted.uid]
    assert listed[0]["news"] == []
    status, account = await client.call("GET", f"/pods/{submitted.uid}")
    assert status == 200
    (run,) = account["runs"]
    assert (run["container"], run["attempt"], run["started"], run["exitCode"]) == ("main", 0, True, None)
    assert run["log"] == str(agent.worker(submitted).places.log_file("main", 0))
    assert [each["reason"] for each in account["news"]] == ["Pulled", "Created", "Started"]
    assert await client.call("DELETE", f"/pods/{submitted.uid}?remove=false&gracePeriodSeconds=3") == (202, {})
    await agent.until_ended(submitted)
    _, account = await client.call("GET", f"/pods/{submitted.uid}")
    assert (account["stage"], account["exitCode"]) == ("gone", 143)
    assert await client.call("DELETE", f"/pods/{submitted.uid}") == (202, {})
    assert (await client.call("GET", f"/pods/{submitted.uid}"))[0] == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("GET", "/pods/nobody", None, 404, "NotFoundError"),
        ("GET", "/pods/nobody/watch", None, 404, "NotFoundError"),
        ("DELETE", "/pods/nobody", None, 404, "NotFoundError"),
        ("DELETE", "/pods/nobody?gracePeriodSeconds=soon", None, 400, "UserError"),
        ("DELETE", "/pods/nobody?gracePeriodSeconds=nan", None, 400, "UserError"),
        ("DELETE", "/pods/nobody?gracePeriodSeconds=inf", None, 400, "UserError"),
        ("GET", "/debug/lag?seconds=soon", None, 400, "UserError"),
        ("GET", "/debug/lag?seconds=nan", None, 400, "UserError"),
        ("GET", "/debug/lag?seconds=-1", None, 400, "UserError"),
        ("POST", "/pods", b"{", 400, "UserError"),
        ("POST", "/pods", b"{}", 400, "UserError"),
        ("POST", "/pods", b'{"pod":{"metadata":{"uid":"../x"}}}', 400, "UserError"),
        ("POST", "/pods", b'{"pod":{"metadata":{"name":"p","uid":"u"}},"source":"api"}', 400, "UserError"),
    ],
)
async def test_what_is_wrong(
    client: Client, method: str, path: str, body: bytes | None, status: int, reason: str
) -> None:
    answered, document = await client.call(method, path, body)
    assert (answered, document["reason"]) == (status, reason)
    assert document["message"]
    assert document.keys() == {"reason", "message", "hint", "fault"}


async def test_a_pod_that_is_there_is_a_conflict(client: Client) -> None:
    body = msgspec.json.encode(bundle(container("main", "sleep")))
    assert (await client.call("POST", "/pods", body))[0] == 201
    assert (await client.call("POST", "/pods", body))[0] == 409


async def test_a_watch_lasts_until_the_pod_is_removed(agent: Agent, client: Client) -> None:
    submitted = bundle(container("main", "hello"))
    agent.dispatch.submit(submitted)
    frames: list[Frame] = []
    async with client.session.get(f"http://agent/pods/{submitted.uid}/watch") as response:
        assert response.content_type == "application/x-ndjson"
        async for line in response.content:
            frame = msgspec.json.decode(line, type=Frame)
            frames.append(frame)
            if frame.account is not None and frame.account.stage == "gone" and agent.dispatch.has(submitted.uid):
                agent.dispatch.end(submitted.uid)
    accounts = [frame.account for frame in frames if frame.account is not None]
    assert accounts[-1].pod.status.phase == "Succeeded"
    assert accounts[-1].exit_code == 0
    assert "Started" in [frame.news.reason for frame in frames if frame.news is not None]
    assert all(sum(each is not None for each in (f.account, f.news, f.progress)) == 1 for f in frames)


async def test_watchers_that_leave_leave_nothing(agent: Agent, client: Client) -> None:
    submitted = bundle(container("main", "sleep"))
    agent.dispatch.submit(submitted)
    for _ in range(3):
        async with client.session.get(f"http://agent/pods/{submitted.uid}/watch") as response:
            await response.content.readline()
            response.close()
    await agent.until_running(submitted)
    agent.hub.changed(submitted.uid)

    def has_nobody() -> bool:
        agent.hub.changed(submitted.uid)
        return not agent.hub._watches

    await eventually(has_nobody, agent.hub._watches)


async def test_failures_are_in_the_account(agent: Agent, client: Client) -> None:
    submitted = bundle(container("main", "hello"))
    submitted.pod.spec.containers[0].image = "file:/nowhere.wasm"
    agent.dispatch.submit(submitted)
    await agent.until_waiting(submitted, "ImagePullBackOff")
    async with client.session.get(f"http://agent/pods/{submitted.uid}") as response:
        account = msgspec.json.decode(await response.read(), type=Account)
    assert account.failures["main"].not_found
    assert account.failures["main"].stage == "image"
