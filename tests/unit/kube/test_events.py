"""Events sent over HTTP: created, counted, sent again, dropped."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from tests.support.fake_api import FakeApi, status, times
from tests.support.waiting import eventually
from wasmlet.base.tasks import Tasks
from wasmlet.kube.client import Client
from wasmlet.kube.correlator import Reference
from wasmlet.kube.events import EVENTS, EventSettings, Recorder, about_node, about_pod
from wasmlet.kube.types import ObjectMeta, Pod

POD = Pod(metadata=ObjectMeta(name="web", namespace="team", uid="u", resource_version="7"))
SETTINGS = EventSettings(queue_size=5, attempts=3, retry_seconds=0.02)


@pytest.fixture
async def recorder(client: Client) -> AsyncIterator[Recorder]:
    tasks = Tasks()
    recorder = Recorder(client, host="node-1", settings=SETTINGS, now=lambda: 1_700_000_000.5)
    tasks.start(recorder.run(), name="events")
    yield recorder
    await tasks.close()


async def flush(recorder: Recorder) -> None:
    async with asyncio.timeout(20):
        await recorder.flush()


def say(recorder: Recorder, message: str = "m", *, about: Reference | None = None) -> None:
    about = about or about_pod(POD, field_path="spec.containers{main}")
    recorder.record(about, type="Normal", reason="Started", message=message)


async def test_an_event_says_who_saw_what(api: FakeApi, client: Client, recorder: Recorder) -> None:
    say(recorder)
    await flush(recorder)
    sent = json.loads(api.seen[-1].body)
    name = sent["metadata"]["name"]
    assert name == f"web.{int(1_700_000_000.5 * 1e9):x}"
    assert api.seen[-1].path == "/api/v1/namespaces/team/events"
    assert sent == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "team"},
        "involvedObject": {
            "kind": "Pod",
            "namespace": "team",
            "name": "web",
            "uid": "u",
            "apiVersion": "v1",
            "resourceVersion": "7",
            "fieldPath": "spec.containers{main}",
        },
        "reason": "Started",
        "message": "m",
        "source": {"component": "kubelet", "host": "node-1"},
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:13:20Z",
        "count": 1,
        "type": "Normal",
        "reportingComponent": "kubelet",
        "reportingInstance": "node-1",
    }
    assert (await client.get(EVENTS, name, namespace="team")).count == 1


async def test_a_node_has_its_events_in_default(api: FakeApi, recorder: Recorder) -> None:
    say(recorder, about=about_node("node-1", uid="real"))
    await flush(recorder)
    sent = json.loads(api.seen[-1].body)
    assert sent["metadata"]["namespace"] == "default"
    assert sent["involvedObject"] == {"kind": "Node", "name": "node-1", "uid": "real", "apiVersion": "v1"}


async def test_the_same_again_is_a_patch(api: FakeApi, client: Client, recorder: Recorder) -> None:
    say(recorder)
    await flush(recorder)
    say(recorder)
    await flush(recorder)
    assert api.seen[-1].headers["Content-Type"] == "application/strategic-merge-patch+json"
    listed = await client.list(EVENTS)
    assert [each.count for each in listed.items] == [2]


async def test_what_waits_is_told_once(api: FakeApi, client: Client, recorder: Recorder) -> None:
    for _ in range(4):
        say(recorder)
    await flush(recorder)
    assert [each.method for each in api.seen] == ["POST"]
    assert (await client.list(EVENTS)).items[0].count == 4


async def test_an_event_that_has_expired_is_told_anew(api: FakeApi, client: Client, recorder: Recorder) -> None:
    say(recorder)
    await flush(recorder)
    await api.remove("events", (await client.list(EVENTS)).items[0].metadata.name, namespace="team")
    say(recorder)
    await flush(recorder)
    assert (await client.list(EVENTS)).items[0].count == 2


async def test_failures_are_sent_again_and_then_dropped(api: FakeApi, client: Client, recorder: Recorder) -> None:
    api.behaviours.append(times(2, lambda: status(500, "InternalError", "")))
    say(recorder)
    await flush(recorder)
    assert (len(api.seen), recorder.dropped) == (3, 0)
    api.behaviours.append(times(3, lambda: status(500, "InternalError", "")))
    say(recorder, "lost")
    say(recorder, "kept")
    await flush(recorder)
    assert recorder.dropped == 1
    assert {each.message for each in (await client.list(EVENTS)).items} == {"m", "kept"}


@pytest.mark.parametrize("code", [403, 409, 422])
async def test_refusals_are_not_sent_again(api: FakeApi, recorder: Recorder, code: int) -> None:
    api.behaviours.append(times(1, lambda: status(code, "AlreadyExists" if code == 409 else "", "")))
    say(recorder)
    await flush(recorder)
    assert len(api.seen) == 1


async def test_the_queue_is_bounded(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(client, host="node-1", settings=SETTINGS)
    for number in range(8):
        say(recorder, str(number))
    assert repr(recorder) == "<Recorder 5 waiting, 3 dropped>"
    assert caplog.text.count("events dropped") == 2


async def test_long_messages_are_cut(api: FakeApi, recorder: Recorder) -> None:
    say(recorder, "x" * 5000)
    await flush(recorder)
    assert len(json.loads(api.seen[-1].body)["message"]) == 1024


async def test_it_can_be_ended_while_it_waits(api: FakeApi, client: Client) -> None:
    recorder = Recorder(client, host="node-1", settings=EventSettings(retry_seconds=60))
    api.behaviours.append(times(99, lambda: status(500, "InternalError", "")))
    say(recorder)
    tasks = Tasks()
    tasks.start(recorder.run(), name="events")
    await eventually(lambda: api.seen)
    await tasks.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await recorder.flush()
            pytest.fail("it was never sent")
