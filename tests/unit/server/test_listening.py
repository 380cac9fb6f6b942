"""The door: bounds, strangers, and a listener that never gives up."""

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.agent import Agent
from tests.support.waiting import eventually
from tests.unit.server.kubelet_api import HOST, Api, served
from tests.unit.server.still_pods import StillPod
from wasmlet.base.errors import UserError
from wasmlet.server import listening
from wasmlet.server.kubelet import Settings
from wasmlet.server.listening import Limits

LIMITS = Limits(connections=20, handshake_seconds=1.5, stranger_seconds=1.5)
PATIENT = Limits(connections=20, handshake_seconds=30, stranger_seconds=30)
"""A crowd takes its time to come in; nobody of it is sent away for want of patience alone."""


@pytest.fixture
async def api(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Api]:
    monkeypatch.setattr(listening, "PATIENCE_SECONDS", 0.2)
    settings = Settings(limits=getattr(request, "param", LIMITS))
    async with served(tmp_path, agent.dispatch, agent.hub, settings=settings) as api:
        yield api


class Crowd:
    """Plain TCP connections that say nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.members: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def grow(self, count: int, *, handshake: bool = False) -> None:
        context = self._api.papers.client() if handshake else None
        for _ in range(count):
            with contextlib.suppress(OSError):
                self.members.append(await asyncio.open_connection(HOST, self._api.server.port, ssl=context))

    async def refused(self) -> int:
        """How many were closed by the server."""
        ended = 0
        for reader, _ in self.members:
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(0.01):
                    ended += not await reader.read(1)
                    continue
        return ended

    def leave(self) -> None:
        for _, writer in self.members:
            writer.transport.abort()


@pytest.fixture
async def crowd(api: Api) -> AsyncIterator[Crowd]:
    crowd = Crowd(api)
    yield crowd
    crowd.leave()


def count(api: Api) -> int:
    door = api.server._door
    assert door is not None
    return len(door._handshakes) + len(door._server.connections)


async def test_a_thousand_connections_meet_a_bound(api: Api, crowd: Crowd) -> None:
    highest = 0
    for _ in range(20):
        await crowd.grow(50)
        highest = max(highest, count(api))
    assert highest <= LIMITS.connections
    await eventually(lambda: count(api) == 0, "silent peers are sent away")
    assert (await api.get("/healthz"))[0] == 200


@pytest.mark.parametrize("api", [PATIENT], indirect=True)
async def test_silent_peers_do_not_keep_others_out(api: Api, crowd: Crowd) -> None:
    await crowd.grow(LIMITS.connections)
    await eventually(lambda: count(api) == LIMITS.connections)
    await asyncio.sleep(0.25)  # patience with them ends
    assert (await api.get("/healthz"))[0] == 200


@pytest.mark.parametrize("api", [PATIENT], indirect=True)
async def test_strangers_do_not_keep_others_out(api: Api, crowd: Crowd) -> None:
    await crowd.grow(LIMITS.connections, handshake=True)
    await eventually(lambda: len(api.server._door._strangers) == LIMITS.connections)  # type: ignore[union-attr]
    await asyncio.sleep(0.25)
    assert (await api.get("/healthz"))[0] == 200


async def test_a_stranger_is_sent_away(api: Api, crowd: Crowd) -> None:
    await crowd.grow(1, handshake=True)
    reader, writer = crowd.members[0]
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")  # and never an end of it
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert api.server._door._strangers == {}  # type: ignore[union-attr]


async def test_whoever_is_known_may_stay(api: Api) -> None:
    caller = api.caller("kube-apiserver")
    seen: list[object] = []
    for _ in range(2):
        async with caller.get("/healthz") as response:
            assert response.status == 200
        seen += api.server._door._server.connections  # type: ignore[union-attr]
        await asyncio.sleep(2 * LIMITS.stranger_seconds)
    assert seen[0] is seen[1]


async def test_a_house_full_of_known_callers_refuses(api: Api, still: Callable[..., StillPod]) -> None:
    pod = still()
    pod.attempt()
    caller = api.caller("kube-apiserver")
    answers = [await api.begin(f"{pod.path}/main?follow=true", caller) for _ in range(LIMITS.connections)]
    await asyncio.sleep(0.3)  # longer than the patience with those who may be sent away
    with pytest.raises(OSError):  # noqa: PT011  # reset, or an end within the handshake
        await api.get("/healthz")
    assert len(api.server._door._server.connections) == LIMITS.connections  # type: ignore[union-attr]
    for answer in answers:
        answer.close()
    await eventually(lambda: count(api) < LIMITS.connections)
    assert (await api.get("/healthz"))[0] == 200


async def test_strangers_that_left_are_forgotten(api: Api, crowd: Crowd) -> None:
    for _ in range(10):
        await crowd.grow(10, handshake=True)
        crowd.leave()
        crowd.members.clear()
        await eventually(lambda: count(api) == 0)
    assert len(api.server._door._strangers) <= 2 * LIMITS.connections  # type: ignore[union-attr]


async def test_an_accept_that_fails_is_tried_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listening, "ACCEPT_DELAY_SECONDS", 0.05)
    loop = asyncio.get_running_loop()
    accept, errors = loop.sock_accept, iter([errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS])

    async def failing(listener: socket.socket) -> tuple[socket.socket, object]:
        if (number := next(errors, 0)) != 0:
            raise OSError(number, "no")
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    # The accept that waits already is the old one.
    assert (await api.get("/healthz"))[0] == 200
    assert (await api.get("/healthz"))[0] == 200
    assert caplog.text.count("accept failed") == 3


async def test_an_address_that_cannot_be_used(api: Api, agent: Agent, tmp_path: Path) -> None:
    async with served(tmp_path, agent.dispatch, agent.hub) as other:
        for address, port, reason in (
            (HOST, api.server.port, "AddressInUse"),
            ("192.0.2.1", 0, "AddressUnusable"),
        ):
            with pytest.raises(UserError) as caught:
                await other.server.start(address, port)
            assert caught.value.reason == reason
            assert address in caught.value.message


async def test_ipv6(agent: Agent, tmp_path: Path) -> None:
    async with served(tmp_path, agent.dispatch, agent.hub) as api:
        door = listening.Door(api.server._runner.server, context=lambda: None, limits=LIMITS)  # type: ignore[arg-type]
        try:
            await door.open("::1", 0)
        except UserError:
            pytest.skip("no IPv6 here")
        reader, writer = await asyncio.open_connection("::1", door.port)
        assert await reader.read() == b""  # there is no certificate: nobody is let in
        writer.close()
        await door.close()


@pytest.mark.parametrize(("descriptors", "most"), [(100, 50), (1 << 20, 1000), (resource.RLIM_INFINITY, 1000)])
def test_never_more_than_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    door = listening.Door(None, context=lambda: None, limits=Limits())  # type: ignore[arg-type]
    assert door._most == most
