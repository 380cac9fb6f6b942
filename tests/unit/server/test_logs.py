"""`kubectl logs`: which log, its texts, and following it to its end."""

import asyncio
import json
import ssl
from collections.abc import Callable

import aiohttp
import pytest

from tests.support.agent import Agent
from tests.support.pods import bundle, container
from tests.support.waiting import eventually
from tests.unit.server.kubelet_api import ADMIN_TOKEN, HOST, Api
from tests.unit.server.still_pods import START, TIME, StillPod
from wasmlet.kube.types import Container
from wasmlet.pods.facts import Verdict
from wasmlet.server import changes, log_files

Still = Callable[..., StillPod]

AUTHORIZATION = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


class Follower:
    """Reads an answer as it comes."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.text = ""

    async def until(self, text: str, *, seconds: float = 10.0) -> None:
        """Read until everything that was said is `text`."""
        async with asyncio.timeout(seconds):
            while self.text != text:
                chunk = await self.response.content.readany()
                assert chunk, f"it ended after {self.text!r}"
                self.text += chunk.decode()
                assert text.startswith(self.text)

    async def rest(self, *, seconds: float = 10.0) -> str:
        """What comes until the end."""
        async with asyncio.timeout(seconds):
            return (await self.response.content.read()).decode()


async def follow(api: Api, pod: StillPod, query: str = "", *, name: str = "main") -> Follower:
    async with asyncio.timeout(20):
        response = await api.begin(f"{pod.path}/{name}?follow=true{query}")
    assert response.status == 200
    return Follower(response)


# --- which log --------------------------------------------------------------------------------------------------------


async def test_a_running_container(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    pod.write("a", "b")
    async with api.caller().get(f"{pod.path}/main", headers=AUTHORIZATION) as response:
        assert await response.text() == "a\nb\n"
        assert response.headers["Content-Type"] == "text/plain"
        assert response.headers["Transfer-Encoding"] == "chunked"


async def test_a_container_that_has_written_nothing(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    assert await api.get(f"{pod.path}/main") == (200, "")


async def test_the_last_instance_and_the_one_before(api: Api, still: Still) -> None:
    pod = still(restart_policy="Always")
    pod.attempt(ended=1)
    pod.write("first")
    assert await api.get(f"{pod.path}/main") == (200, "first\n")
    pod.attempt(ended=1)
    pod.write("second", number=1)
    assert await api.get(f"{pod.path}/main") == (200, "second\n")
    pod.attempt()
    pod.write("third", number=2)
    assert await api.get(f"{pod.path}/main") == (200, "third\n")
    assert await api.get(f"{pod.path}/main?previous=true") == (200, "second\n")


async def test_of_a_container_that_is_started_again_the_last_log_is_shown(api: Api, still: Still) -> None:
    pod = still(restart_policy="Always")
    pod.attempt(ended=1)
    pod.write("first")
    pod.attempt(started=False)
    assert await api.get(f"{pod.path}/main") == (200, "first\n")
    assert await api.get(f"{pod.path}/main?previous=1") == (200, "first\n")


async def test_no_previous_instance(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    name = pod.bundle.pod.metadata.name
    text = f'previous terminated container "main" in pod "{name}" not found'
    assert await api.get(f"{pod.path}/main?previous=true") == (400, text)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("", "waiting to start: ContainerCreating"),
        ("ErrImagePull", "waiting to start: image can't be pulled"),
        ("ImagePullBackOff", "waiting to start: trying and failing to pull image"),
        ("CreateContainerConfigError", "waiting to start: CreateContainerConfigError"),
    ],
)
async def test_a_container_that_has_never_run(api: Api, still: Still, shown: str, text: str) -> None:
    pod = still()
    if shown:
        pod.fail(shown)
    name = pod.bundle.pod.metadata.name
    assert await api.get(f"{pod.path}/main") == (400, f'container "main" in pod "{name}" is {text}')


async def test_init_containers(api: Api, still: Still) -> None:
    pod = still(init_containers=[container("init")])
    name = pod.bundle.pod.metadata.name
    text = f'container "main" in pod "{name}" is waiting to start: PodInitializing'
    assert await api.get(f"{pod.path}/main") == (400, text)
    pod.attempt("init")
    pod.write("setting up", name="init")
    assert await api.get(f"{pod.path}/init") == (200, "setting up\n")


async def test_unknown_names(api: Api, still: Still) -> None:
    pod = still()
    name = pod.bundle.pod.metadata.name
    assert await api.get("/containerLogs/default/x/main") == (404, 'pod "x" does not exist')
    assert await api.get(f"/containerLogs/other/{name}/main") == (404, f'pod "{name}" does not exist')
    assert await api.get(f"{pod.path}/c") == (404, f'container "c" not found in pod "{name}"')
    assert await api.get(f"{pod.path}/..%2F..%2Fx") == (404, f'container "../../x" not found in pod "{name}"')
    assert (await api.get("/containerLogs/default/x"))[0] == 404


async def test_containers_without_a_status(api: Api, still: Still) -> None:
    pod = still(ephemeral_containers=[Container(name="debug")])
    name = pod.bundle.pod.metadata.name
    why = "wasmlet does not run ephemeral containers yet; on the node: wasmlet exec"
    assert await api.get(f"{pod.path}/debug") == (400, f'container "debug" in pod "{name}" is not available: {why}')
    pod.worker.facts.admitted_at = None
    pod.worker.facts.verdict = Verdict(phase="Failed", reason="r", message="m", at=START)
    assert await api.get(f"{pod.path}/main") == (400, f'container "main" in pod "{name}" is not available')


async def test_of_two_pods_with_one_name_the_newer(api: Api, agent: Agent) -> None:
    for text in ("old", "new"):
        pod = StillPod(agent, bundle(container("main"), name="web"))
        pod.attempt()
        pod.write(text)
    assert await api.get("/containerLogs/default/web/main") == (200, "new\n")


# --- options ----------------------------------------------------------------------------------------------------------


async def test_options(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    pod.write(*"abc")
    pod.rotate()
    pod.write("d", "e")
    times = [TIME.format(0, position) for position in (0, 1)]
    assert await api.get(f"{pod.path}/main?tailLines=3") == (200, "c\nd\ne\n")
    assert await api.get(f"{pod.path}/main?tailLines=0") == (200, "")
    assert await api.get(f"{pod.path}/main?tailLines=2&timestamps=true") == (200, f"{times[0]} d\n{times[1]} e\n")
    assert await api.get(f"{pod.path}/main?limitBytes=5") == (200, "a\nb\nc")
    assert await api.get(f"{pod.path}/main?sinceTime=2026-11-23T10:00:00.000000001Z") == (200, "b\nc\ne\n")
    assert await api.get(f"{pod.path}/main?sinceSeconds=999999999") == (200, "a\nb\nc\nd\ne\n")


async def test_a_torn_end(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt(ended=137)
    pod.write("a", "b")
    pod.log().write_bytes(pod.log().read_bytes()[:-1])
    assert await api.get(f"{pod.path}/main") == (200, "a\nb")
    assert await api.get(f"{pod.path}/main?tailLines=1") == (200, "a\n")
    assert await api.get(f"{pod.path}/main?follow=true") == (200, "a\nb")


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("tailLines=-1", 422, "Invalid request."),
        ("sinceSeconds=1&sinceTime=2026-11-23T10:00:00Z", 422, "Invalid request."),
        ("stream=Nothing", 422, "Invalid request."),
        ("limitBytes=many", 400, "Unable to decode query."),
    ],
)
async def test_bad_options_come_before_everything(api: Api, query: str, status: int, message: str) -> None:
    answer = await api.get(f"/containerLogs/default/unknown/main?{query}")
    assert answer == (status, json.dumps({"message": message}))


async def test_one_stream_needs_its_gate(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    pod.write("a")
    assert await api.get(f"{pod.path}/main?stream=All") == (200, "a\n")
    assert (await api.get(f"{pod.path}/main?stream=Stdout"))[0] == 400


# --- following --------------------------------------------------------------------------------------------------------


async def test_headers_come_at_once_and_lines_as_they_are_written(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    follower = await follow(api, pod)
    pod.write("a")
    await follower.until("a\n")
    pod.write("b", "c")
    await follower.until("a\nb\nc\n")
    pod.write("d")
    pod.end()
    assert await follower.rest() == "d\n"


async def test_nothing_is_polled(api: Api, still: Still, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two lines nobody looks; a line is there at once all the same."""
    monkeypatch.setattr(changes, "RESYNC_SECONDS", 3600.0)
    looks = 0
    read = log_files.LogFiles.read

    def counting(files: log_files.LogFiles) -> list[bytes]:
        nonlocal looks
        looks += 1
        return read(files)

    monkeypatch.setattr(log_files.LogFiles, "read", counting)
    pod = still()
    pod.attempt()
    follower = await follow(api, pod)
    pod.write("a")
    await follower.until("a\n")
    await asyncio.sleep(0.1)
    before = looks
    await asyncio.sleep(0.3)
    assert looks == before
    pod.write("b")
    await follower.until("a\nb\n")


async def test_a_tail_that_goes_on_over_rotations(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    pod.write(*"abc")
    follower = await follow(api, pod, "&tailLines=1&timestamps=true")
    expected = f"{TIME.format(0, 2)} c\n"
    await follower.until(expected)
    for number in range(6):
        pod.rotate(keep=2)
        pod.write(str(number))
        expected += f"{TIME.format(0, 0)} {number}\n"
        await follower.until(expected)
    pod.end()
    assert await follower.rest() == ""


async def test_a_container_that_ended_before(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt(ended=0)
    pod.write("a")
    assert await (await follow(api, pod)).rest() == "a\n"


async def test_a_restart_ends_it(api: Api, still: Still) -> None:
    pod = still(restart_policy="Always")
    pod.attempt()
    pod.write("a")
    follower = await follow(api, pod)
    await follower.until("a\n")
    pod.end(code=1)
    pod.attempt()
    pod.write("b", number=1)
    assert await follower.rest() == ""


async def test_a_pod_that_is_removed_ends_it(api: Api, agent: Agent, still: Still) -> None:
    pod = still()
    pod.attempt()
    pod.write("a")
    follower = await follow(api, pod)
    await follower.until("a\n")
    del agent.dispatch._workers[pod.bundle.uid]
    pod.worker.remove()
    agent.hub.removed(pod.bundle.uid)
    assert await follower.rest() == ""


async def test_a_limit_ends_it(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    follower = await follow(api, pod, "&limitBytes=3")
    pod.write("a", "bcd")
    assert await follower.rest() == "a\nb"


async def test_a_follower_that_leaves_leaves_nothing_behind(api: Api, agent: Agent, still: Still) -> None:
    pod = still()
    pod.attempt()
    pod.write("a")
    followers = [await follow(api, pod) for _ in range(20)]
    for follower in followers:
        await follower.until("a\n")
    watched = api.server._logs._changes
    assert len(watched._readers[pod.log().parent]) == 20
    for follower in followers:
        follower.response.close()
    await eventually(lambda: not watched._readers and not agent.hub._watches, watched)
    await eventually(lambda: not [each for each in asyncio.all_tasks() if each.get_name().startswith("log of")])


async def test_closing_the_server_ends_followers(api: Api, still: Still) -> None:
    """At once: it does not wait for their requests to end."""
    api.server._runner._shutdown_timeout = 3600
    pod = still()
    pod.attempt()
    pod.write("a")
    follower = await follow(api, pod)
    await follower.until("a\n")
    async with asyncio.timeout(20):
        await api.server.close()
    with pytest.raises(aiohttp.ClientPayloadError):  # cut, so that nobody takes it for the log's end
        await follower.rest()
    assert not api.server._logs._changes._readers


async def test_many_followers_hold_nobody_up(api: Api, still: Still) -> None:
    pods = [still() for _ in range(10)]
    for pod in pods:
        pod.attempt()
    followers = [await follow(api, pod) for pod in pods for _ in range(5)]
    for pod in pods:
        pod.write("a")
    async with asyncio.TaskGroup() as group:
        for follower in followers:
            group.create_task(follower.until("a\n"))
    assert (await api.get("/healthz"))[0] == 200


async def test_a_client_that_does_not_read_holds_nobody_up(api: Api, still: Still) -> None:
    pod = still()
    pod.attempt()
    with pod.log().open("w") as file:
        file.write((f"{TIME.format(0, 0)} stdout F " + "x" * 1000 + "\n") * 20_000)  # 20 MB
    context = api.papers.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await asyncio.open_connection(HOST, api.server.port, ssl=context, limit=1024)
    request = f"GET {pod.path}/main HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n"
    writer.write(request.encode())
    await asyncio.sleep(0.3)
    [connection] = [each for each in api.server._runner.server.connections if each._request_in_progress]  # type: ignore[union-attr]
    assert connection.transport is not None
    assert connection.transport.get_write_buffer_size() < 1_000_000
    status, text = await api.get(f"{pod.path}/main?tailLines=1")
    assert (status, len(text)) == (200, 1001)
    status, text = await api.get(f"{pod.path}/main")
    assert (status, len(text)) == (200, 20_000 * 1001)
    writer.transport.abort()


# --- a real guest -----------------------------------------------------------------------------------------------------


async def test_a_real_guest(api: Api, agent: Agent) -> None:
    pod = bundle(container("main", "sleep"))
    agent.dispatch.submit(pod)
    await agent.until_running(pod)
    name = pod.pod.metadata.name
    path = f"/containerLogs/default/{name}/main"
    async with api.caller().get(f"{path}?follow=true", headers=AUTHORIZATION) as response:
        follower = Follower(response)
        await follower.until("ready\n")
        agent.dispatch.end(pod.uid, grace_seconds=0, remove=False)
        assert await follower.rest() == ""
    assert await api.get(path) == (200, "ready\n")
