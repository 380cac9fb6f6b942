"""Pods that this node cannot run as they are: each says why, with the standard reason, and the agent stays up."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.agent import Agent, status_of
from tests.support.guests import guest
from tests.support.pods import bundle, config_map, container, data_volume
from tests.support.waiting import eventually
from tests.unit.images.fake_registry import FakeRegistry
from wasmlet.images.configuration import CONTAINER_CONFIGS
from wasmlet.images.manifest import OCI_INDEX, OCI_MANIFEST
from wasmlet.kube.types import (
    ConfigMapVolume,
    Container,
    ContainerSecurityContext,
    EnvFromSource,
    EnvVar,
    EnvVarSource,
    KeySelector,
    KeyToPath,
    ObjectReference,
    PodSecurityContext,
    SecretVolume,
    Volume,
    VolumeMount,
)
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.restarts import BackOff
from wasmlet.pods.worker import Worker

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
