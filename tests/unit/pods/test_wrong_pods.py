"""Pods that this node cannot run as they are: each says why, with the standard reason, and the agent stays up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent, status_of
from tests.support.guests import guest
from tests.support.pods import bundle, config_map, container, data_volume
from tests.support.waiting import eventually
from tests.unit.images.fake_registry import FakeRegistry
from wasmlet.base.errors import UserError
from wasmlet.images.configuration import CONTAINER_CONFIGS
from wasmlet.images.manifest import OCI_INDEX, OCI_MANIFEST
from wasmlet.kube.types import (
    ConfigMapVolume,
    Container,
    ContainerSecurityContext,
    DownwardFile,
    DownwardVolume,
    EnvFromSource,
    EnvVar,
    EnvVarSource,
    KeySelector,
    KeyToPath,
    ObjectReference,
    Pod,
    PodSecurityContext,
    ResourceFieldSelector,
    ResourceRequirements,
    SecretVolume,
    Volume,
    VolumeMount,
)
from wasmlet.pods import handlers
from wasmlet.pods.admission import NodeFacts, Refusal
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.restarts import BackOff
from wasmlet.pods.worker import Worker

ALLOCATABLE = {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "4"}


class Standing:
    """A Node that the test changes; `live` is what the API server says when it is asked."""

    def __init__(self, **facts: Any) -> None:
        self.known = NodeFacts(**({"name": "node", "allocatable": ALLOCATABLE} | facts))
        self.live = self.known

    async def facts(self, *, live: bool = False) -> NodeFacts:
        return self.live if live else self.known

    def allocatable(self) -> Mapping[str, str]:
        return self.known.allocatable


async def join(agent: Agent, **facts: Any) -> Standing:
    """Make the agent's next rooms those of a node."""
    agent.node = standing = Standing(**facts)
    await agent.restart()
    return standing


def of_api(*containers: Container, **fields: Any) -> Bundle:
    submitted = bundle(*containers, **fields)
    submitted.source = "api"
    submitted.pod.metadata.resource_version = "1"
    return submitted


def sleeping(cpu: str = "0", **fields: Any) -> Container:
    return container("main", "sleep", resources=ResourceRequirements(requests={"cpu": cpu}), **fields)


# --- rejected ---------------------------------------------------------------------------------------------------------


async def test_a_rejected_pod_says_so_once_and_leaves_nothing(agent: Agent) -> None:
    await join(agent)
    rejected = of_api(sleeping("3"), volumes=[data_volume()])
    seen: list[tuple[str, str]] = []
    agent.hub.changed = lambda uid: seen.extend(_shown(agent, uid))  # type: ignore[method-assign]
    agent.dispatch.submit(rejected)
    assert await agent.until_ended(rejected) == "Failed"
    status = agent.worker(rejected).status()
    text = "Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"
    assert (status.reason, status.message) == ("OutOfcpu", f"Pod was rejected: {text}")
    assert (status.container_statuses, status.init_container_statuses) == ([], [])
    assert (status.qos_class, status.host_ip) == ("Burstable", "127.0.0.1")
    assert status.start_time
    assert status.pod_ip == ""
    assert agent.told("OutOfcpu") == [text]
    assert set(seen) <= {("Failed", "OutOfcpu")}, "no state between is ever shown"
    assert not (agent.worker(rejected).places.pod / "volumes").exists()
    assert not agent.worker(rejected).places.logs.exists()
    assert agent.engines.handles == []
    await agent.restart()
    assert await agent.until_ended(rejected) == "Failed"
    assert agent.told("OutOfcpu") == [text]
    agent.dispatch.end(rejected.uid, remove=True)
    assert not agent.dispatch.has(rejected.uid)
    assert not (agent.directory / "pods" / rejected.uid).exists()


def _shown(agent: Agent, uid: str) -> Iterator[tuple[str, str]]:
    if agent.dispatch.has(uid):
        status = agent.dispatch.get(uid).status()
        yield status.phase, status.reason


async def test_what_others_hold_is_given_back_when_they_have_ended(agent: Agent) -> None:
    await join(agent)
    holder, late, after = of_api(sleeping("1500m")), of_api(sleeping("1")), of_api(sleeping("1"))
    agent.dispatch.submit(holder)
    await agent.until_running(holder)
    agent.dispatch.submit(late)
    assert await agent.until_ended(late) == "Failed"
    assert agent.worker(late).status().message.endswith("requested: 1000, used: 1500, capacity: 2000")
    agent.dispatch.end(holder.uid, remove=False, grace_seconds=1)
    await agent.until_ended(holder)
    agent.dispatch.submit(after)
    await agent.until_running(after)


async def test_many_at_once_never_hold_more_than_there_is(agent: Agent) -> None:
    await join(agent)
    submitted = [of_api(sleeping("1")) for _ in range(6)]
    for each in submitted:
        agent.dispatch.submit(each)

    def decided() -> bool:
        facts = [agent.worker(each).facts for each in submitted]
        return all(each.admitted_at is not None or each.verdict is not None for each in facts)

    await eventually(decided, agent.dispatch)
    assert sum(agent.worker(each).facts.admitted_at is not None for each in submitted) == 2


async def test_an_admitted_pod_stays_whatever_becomes_of_the_node(agent: Agent) -> None:
    await join(agent)
    submitted = of_api(sleeping("2"))
    agent.dispatch.submit(submitted)
    attempt = await agent.until_running(submitted)
    await join(agent, allocatable={"cpu": "1", "pods": "0"}, labels={}, pressures=["DiskPressure"])
    again = await agent.until_running(submitted)
    assert again.id == attempt.id
    assert agent.worker(submitted).status().phase == "Running"


async def test_pods_of_a_terminal_need_not_fit_and_hold_nothing(agent: Agent) -> None:
    await join(agent)
    local, submitted = bundle(sleeping("9")), of_api(sleeping("2"))
    for each in (local, submitted):
        agent.dispatch.submit(each)
        await agent.until_running(each)


async def test_labels_that_the_watch_has_not_told_yet_are_looked_up(agent: Agent) -> None:
    standing = await join(agent)
    standing.live = NodeFacts(name="node", allocatable=ALLOCATABLE, labels={"disk": "fast"})
    fits, fits_not = of_api(sleeping(), node_selector={"disk": "fast"}), of_api(sleeping(), node_selector={"a": "b"})
    for each in (fits, fits_not):
        agent.dispatch.submit(each)
    await agent.until_running(fits)
    assert await agent.until_ended(fits_not) == "Failed"
    assert agent.worker(fits_not).status().reason == "NodeAffinity"


async def test_a_node_that_goes_down_takes_no_pods(agent: Agent) -> None:
    await join(agent)
    agent.refusal = Refusal("NodeShutdown", "Pod was rejected as the node is shutting down.")
    submitted = of_api(sleeping())
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Failed"
    assert agent.worker(submitted).status().reason == "NodeShutdown"
    assert agent.told("NodeShutdown") == ["Pod was rejected as the node is shutting down."]


async def test_a_pod_that_is_deleted_while_the_node_is_not_known_ends(agent: Agent) -> None:
    import asyncio

    standing = await join(agent)

    async def never(*, live: bool = False) -> NodeFacts:
        del live
        await asyncio.Event().wait()
        raise AssertionError

    standing.facts = never  # type: ignore[method-assign]
    submitted = of_api(sleeping())
    agent.dispatch.submit(submitted)
    agent.dispatch.end(submitted.uid, grace_seconds=1, remove=False)
    await agent.until(submitted, lambda worker: worker.is_gone)
    assert agent.worker(submitted).facts.admitted_at is None


# --- configuration that is not there ----------------------------------------------------------------------------------


def variable(**source: Any) -> list[EnvVar]:
    return [EnvVar(name="X", value_from=EnvVarSource(**source))]


def missing_key(kind: str) -> Bundle:
    key = {f"{kind}_key_ref": KeySelector(name="settings", key="k")}
    return bundle(container("main", "hello", env=variable(**key)), config_maps=[config_map("settings", a="1")])


MOUNTS = [VolumeMount(name="v", mount_path="/v", sub_path_expr="$(MISSING)")]
RECURSIVE = [VolumeMount(name="data", mount_path="/v", recursive_read_only="Enabled")]

UNSTARTABLE: list[tuple[Callable[[], Bundle], str]] = [
    (lambda: missing_key("config_map"), "couldn't find key k in ConfigMap default/settings"),
    (lambda: missing_key("secret"), 'secret "settings" not found'),
    (
        lambda: bundle(container("main", "hello", env_from=[EnvFromSource(config_map_ref=ObjectReference(name="no"))])),
        'configmap "no" not found',
    ),
    (
        lambda: bundle(container("main", "hello", env_from=[EnvFromSource(secret_ref=ObjectReference(name="no"))])),
        'secret "no" not found',
    ),
    (
        lambda: bundle(container("main", "hello", volume_mounts=MOUNTS), volumes=[data_volume("v")]),
        "missing value for MISSING",
    ),
    (
        lambda: bundle(
            container("main", "hello", security_context=ContainerSecurityContext(run_as_non_root=True)),
            security_context=PodSecurityContext(run_as_user=0),
        ),
        "container's runAsUser breaks non-root policy (pod: ",
    ),
    (
        lambda: bundle(container("main", "hello", volume_mounts=RECURSIVE), volumes=[data_volume()]),
        'volume "data" requested recursive read-only mode, but it is not read-only',
    ),
]


@pytest.mark.parametrize(("wrong", "text"), UNSTARTABLE)
async def test_what_cannot_be_configured_waits_and_says_why(
    agent: Agent, wrong: Callable[[], Bundle], text: str
) -> None:
    submitted = wrong()
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "CreateContainerConfigError")
    assert message.startswith(text)
    assert agent.told("Failed")[0] == f"Error: {message}"
    assert agent.worker(submitted).status().phase == "Pending"
    await agent.until(submitted, lambda worker: _count(worker) >= 2)


def _count(worker: Worker) -> int:
    failure = worker.facts.container("main").failure
    return 0 if failure is None else failure.count


UNMOUNTABLE: list[tuple[Callable[[], Volume], str]] = [
    (lambda: Volume(name="v", config_map=ConfigMapVolume(name="no")), 'configmap "no" not found'),
    (lambda: Volume(name="v", secret=SecretVolume(secret_name="no")), 'secret "no" not found'),
    (
        lambda: Volume(name="v", config_map=ConfigMapVolume(name="settings", items=[KeyToPath(key="k", path="p")])),
        "references non-existent config key: k",
    ),
    (lambda: Volume(name="v", csi={"driver": "d"}), 'volume "v" of kind csi is not supported by wasmlet'),
    (lambda: Volume(name="v"), 'volume "v" has no source'),
]


@pytest.mark.parametrize(("volume", "text"), UNMOUNTABLE)
async def test_what_cannot_be_mounted_is_tried_again_and_told(
    agent: Agent, volume: Callable[[], Volume], text: str
) -> None:
    submitted = bundle(container("main", "hello"), volumes=[volume()], config_maps=[config_map("settings", a="1")])
    agent.dispatch.submit(submitted)
    await eventually(lambda: len(agent.told("FailedMount")) >= 2, "two events", seconds=10)
    assert re.match(re.escape('MountVolume.SetUp failed for volume "v" : ') + ".*" + re.escape(text), _told(agent))
    status = agent.worker(submitted).status()
    assert (status.phase, status.reason) == ("Pending", "")
    waiting = status_of(agent.worker(submitted)).state.waiting
    assert waiting is not None
    assert waiting.reason == "ContainerCreating"


def _told(agent: Agent) -> str:
    return agent.told("FailedMount")[0]


async def test_optional_things_may_be_missing(agent: Agent) -> None:
    volumes = [
        Volume(name="a", config_map=ConfigMapVolume(name="no", optional=True)),
        Volume(name="b", secret=SecretVolume(secret_name="no", optional=True)),
        Volume(
            name="c",
            config_map=ConfigMapVolume(name="settings", optional=True, items=[KeyToPath(key="k", path="p")]),
        ),
    ]
    env = [
        EnvVar(name="K", value_from=EnvVarSource(config_map_key_ref=KeySelector(name="no", key="k", optional=True))),
        EnvVar(name="L", value_from=EnvVarSource(secret_key_ref=KeySelector(name="no", key="k", optional=True))),
    ]
    env_from = [EnvFromSource(config_map_ref=ObjectReference(name="no", optional=True))]
    settings = [config_map("settings", a="1")]
    submitted = bundle(container("main", "env", env=env, env_from=env_from), volumes=volumes, config_maps=settings)
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    assert b"\nK=" not in b"\n" + agent.output(submitted)


# --- Linux images -----------------------------------------------------------------------------------------------------

LINUX = b'{"os":"linux","architecture":"amd64"}'
LAYER = ("application/vnd.oci.image.layer.v1.tar+gzip", b"a file system")


def linux_image(registry: FakeRegistry, *, index: bool) -> str:
    document = registry.manifest(CONTAINER_CONFIGS[0], LINUX, LAYER)
    digest = registry.add_manifest("linux", document)
    if index:
        entry = {"mediaType": OCI_MANIFEST, "digest": digest, "size": len(registry.manifests[digest][0])}
        entries = [entry | {"platform": {"os": "linux", "architecture": each}} for each in ("amd64", "arm64")]
        registry.add_manifest("linux", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, OCI_INDEX)
    return f"{registry.address}/test/hello:linux"


@pytest.mark.parametrize(("index", "platforms"), [(False, "linux/amd64"), (True, "linux/amd64")])
async def test_a_linux_image_waits_with_the_reason_and_is_tried_rarely(
    agent: Agent, index: bool, platforms: str
) -> None:
    agent.back_off = BackOff(initial_seconds=0.01, maximum_seconds=0.3)
    await agent.restart()
    async with FakeRegistry.running() as registry:
        image = linux_image(registry, index=index)
        submitted = bundle(Container(name="main", image=image))
        agent.dispatch.submit(submitted)
        message = await agent.until_waiting(submitted, "CreateContainerError")
        expected = f"image {image} cannot run here: it is a Linux container image ({platforms}), and this node runs"
        assert message.startswith(expected)
        assert "nodeSelector kubernetes.io/os: linux" in message
        assert "kubernetes.io/arch=wasm32-wasi" in message
        failure = await agent.until(submitted, lambda worker: _second(worker))
        assert failure.retry_at - failure.at == pytest.approx(0.3), "the longest wait, from the first try on"
        assert agent.told("Failed")[:2] == [f"Error: {message}"] * 2
        assert len(agent.told("Failed")) == _count(agent.worker(submitted)), "one event a try"
        assert agent.told("BackOff") == []
        assert registry.count("GET", "/blobs/") <= 2, "its layers are not downloaded"
        content = guest("hello").read_bytes()
        registry.add_image("linux", module=content)
        agent.dispatch.end(submitted.uid)
        await eventually(lambda: not agent.dispatch.has(submitted.uid), "gone")


def _second(worker: Worker) -> Any:
    failure = worker.facts.container("main").failure
    return failure if failure is not None and failure.count >= 2 else None


# --- runtime classes --------------------------------------------------------------------------------------------------


async def test_a_pod_that_asks_for_it_has_an_engine_of_its_own(agent: Agent) -> None:
    shared = bundle(container("main", "sleep"), runtime_class_name="wasmlet")
    alone = bundle(container("main", "sleep"), runtime_class_name="wasmlet-isolated")
    other = bundle(container("main", "sleep"), runtime_class_name="anything")
    used = {}
    for each in (shared, alone, other):
        agent.dispatch.submit(each)
        used[each.uid] = (await agent.until_running(each)).engine
    assert used[shared.uid] == used[other.uid] != used[alone.uid]
    keys = {handle.record.id: handle.record.key.dedicated for handle in agent.engines.handles}
    assert (keys[used[shared.uid]], keys[used[alone.uid]]) == ("", alone.uid)


async def test_the_class_of_a_running_pod_may_go(agent: Agent, tmp_path: Path) -> None:
    gone = False

    async def handler(_pod: Pod) -> str:
        if gone:
            raise UserError("gone", reason=handlers.SANDBOX_REASON)
        return handlers.ISOLATED

    agent.runtime_handler = handler
    await agent.restart()
    submitted = bundle(container("main", "sleep"), restart_policy="Always")
    agent.dispatch.submit(submitted)
    attempt = await agent.until_running(submitted)
    gone = True
    await agent.restart()
    await agent.engines.stop(attempt.engine, attempt.id, grace_seconds=0)
    again = await agent.until_running(submitted, number=1)
    key = next(each.record.key for each in agent.engines.handles if each.record.id == again.engine)
    assert key.dedicated == submitted.uid


async def test_a_handler_that_is_not_there_shows_as_an_event_only(agent: Agent) -> None:
    wanted = "kata"

    async def handler(_pod: Pod) -> str:
        return handlers.check(wanted)

    agent.runtime_handler = handler
    await agent.restart()
    submitted = bundle(container("main", "hello"))
    agent.dispatch.submit(submitted)
    await eventually(lambda: len(agent.told("FailedCreatePodSandBox")) >= 2, "events")
    text = 'Failed to create pod sandbox: no runtime for "kata" is configured'
    assert agent.told("FailedCreatePodSandBox")[0].startswith(text)
    assert agent.told("FailedMount") == []
    status = agent.worker(submitted).status()
    assert status.phase == "Pending"
    waiting = status_of(agent.worker(submitted)).state.waiting
    assert waiting is not None
    assert waiting.reason == "ContainerCreating"
    wanted = "wasmlet"
    assert await agent.until_ended(submitted) == "Succeeded"


# --- resources as a guest sees them -----------------------------------------------------------------------------------


async def test_a_missing_limit_is_what_the_node_says_now(agent: Agent) -> None:
    await join(agent, allocatable={"cpu": "1930m", "memory": "3Gi", "ephemeral-storage": "7Gi", "pods": "9"})
    fields = ("limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu")
    divisors = {"limits.memory": "1Mi", "limits.cpu": "1m"}
    env = [
        EnvVar(
            name=f"V{number}",
            value_from=EnvVarSource(
                resource_field_ref=ResourceFieldSelector(resource=each, divisor=divisors.get(each))
            ),
        )
        for number, each in enumerate(fields)
    ]
    items = [
        DownwardFile(path="cpu", resource_field_ref=ResourceFieldSelector(resource="limits.cpu", container_name="main"))
    ]
    volumes = [Volume(name="v", downward_api=DownwardVolume(items=items))]
    mounts = [VolumeMount(name="v", mount_path="/v")]
    submitted = of_api(
        container("main", "env", env=env),
        container("file", "files", "cat", "/v/cpu", volume_mounts=mounts),
        volumes=volumes,
    )
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == "Succeeded"
    values = dict(line.split("=", 1) for line in agent.output(submitted).decode().splitlines() if "=" in line)
    assert [values[f"V{number}"] for number in range(4)] == ["1930", "3072", str(7 << 30), "0"]
    assert agent.output(submitted, "file") == b"2"


# --- critical pods ----------------------------------------------------------------------------------------------------


async def test_a_critical_pod_comes_in_when_a_lesser_one_has_gone(agent: Agent) -> None:
    await join(agent)
    lesser, kept = of_api(sleeping("1500m")), of_api(sleeping("500m"))
    for each in (lesser, kept):
        each.pod.spec.termination_grace_period_seconds = 1
        agent.dispatch.submit(each)
        await agent.until_running(each)
    critical = of_api(sleeping("1"), priority=2_000_000_000)
    agent.dispatch.submit(critical)
    await agent.until_running(critical)
    status = agent.worker(lesser).status()
    assert (status.phase, status.reason) == ("Failed", "Preempting")
    assert status.message == "Preempted in order to admit critical pod"
    target = [each for each in status.conditions if each.type == "DisruptionTarget"]
    assert [(each.status, each.reason) for each in target] == [("True", "TerminationByKubelet")]
    assert agent.told("Preempting") == ["Preempted in order to admit critical pod"]
    assert agent.worker(kept).status().phase == "Running"
    assert (agent.worker(lesser).facts.ended_at or 0) <= (agent.worker(critical).facts.admitted_at or 0)


async def test_a_critical_pod_for_which_nobody_could_make_room_is_refused(agent: Agent) -> None:
    await join(agent)
    kept, critical = of_api(sleeping("1")), of_api(sleeping("3"), priority=2_000_000_000)
    agent.dispatch.submit(kept)
    await agent.until_running(kept)
    agent.dispatch.submit(critical)
    assert await agent.until_ended(critical) == "Failed"
    assert agent.worker(critical).status().reason == "UnexpectedAdmissionError"
    assert agent.worker(kept).status().phase == "Running"
