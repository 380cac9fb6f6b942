"""Volumes of images and artifacts: what is in them, when they are pulled, and why a container waits for one."""

import json
import re
from typing import Any

import pytest

from tests.support.agent import Agent
from tests.support.file_images import Built, archive, build, files, link, member, put
from tests.support.pods import bundle, container
from tests.unit.images.fake_registry import FakeRegistry
from wasmlet.images.layouts import WASM_LAYER
from wasmlet.images.manifest import OCI_INDEX, TITLE
from wasmlet.kube.types import ImageVolume, Volume, VolumeMount
from wasmlet.pods.bundle import Bundle

EMPTY = "application/vnd.oci.empty.v1+json"


def reading(reference: str, *arguments: str, policy: str = "", **mount: Any) -> Bundle:
    mounts = [VolumeMount(name="data", mount_path="/volume", **mount)]
    volume = Volume(name="data", image=ImageVolume(reference=reference, pull_policy=policy))
    return bundle(container("main", "files", *arguments, volume_mounts=mounts), volumes=[volume])


async def output(agent: Agent, submitted: Bundle, phase: str = "Succeeded") -> str:
    agent.dispatch.submit(submitted)
    assert await agent.until_ended(submitted) == phase
    return agent.output(submitted).decode()


def image(agent: Agent, *layers: bytes, **fields: Any) -> str:
    return put(agent.directory / "images", "localhost/test/data:1", build(*layers, **fields))


async def test_any_image_is_a_volume_and_nobody_writes_to_it(agent: Agent) -> None:
    layer = archive([member("data.json", b"kitten.jpg"), member("etc/os-release", b"Alpine"), link("l", "/data.json")])
    reference = image(agent, layer, platform=("linux", "amd64"), Entrypoint=["/bin/sh"])
    assert await output(agent, reading(reference, "cat", "/volume/data.json")) == "kitten.jpg"
    assert await output(agent, reading(reference, "cat", "/volume/etc/os-release")) == "Alpine"
    assert await output(agent, reading(reference, "cat", "/volume/l")) == "kitten.jpg"
    await output(agent, reading(reference, "append", "/volume/data.json", "x"), "Failed")
    await output(agent, reading(reference, "write", "/volume/new", "x"), "Failed")
    assert await output(agent, reading(reference, "cat", "/volume/os-release", sub_path="etc")) == "Alpine"
    assert await output(agent, reading(reference, "cat", "/volume", sub_path="etc/os-release")) == "Alpine"
    own, text = container("main", "files").image, "already present on machine and can be accessed by the pod"
    assert agent.told("Pulled")[-2:] == [f'Container image "{each}" {text}' for each in (reference, own)]


async def test_a_part_that_the_image_has_not_is_said(agent: Agent) -> None:
    submitted = reading(image(agent, files({"a": b"x"})), "ls", "/volume", sub_path="nothing")
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, "CreateContainerError")
    assert message.startswith("ImageVolumeMountFailed: nothing is not in image localhost/test/data:1")


async def test_an_artifact_s_blobs_are_files(agent: Agent) -> None:
    async with FakeRegistry.running() as registry:
        manifest = registry.manifest(
            EMPTY, b"{}", ("text/plain", b"hello"), ("application/x", b"model"),
            ("application/vnd.oci.image.layer.v1.tar", files({"sub/dir/f": b"unpacked"})), (WASM_LAYER, b"\0asm"),
        )  # fmt: skip
        for layer, name in zip(manifest["layers"], ["motd.txt", "models/m.bin"], strict=False):
            layer["annotations"] = {TITLE: name}
        registry.add_manifest("artifact", {**manifest, "artifactType": "application/x"})
        reference = f"{registry.address}/test/hello:artifact"
        assert await output(agent, reading(reference, "ls", "/volume")) == "m.bin\nmodule.wasm\nmotd.txt\nsub\n"
        assert await output(agent, reading(reference, "cat", "/volume/motd.txt")) == "hello"
        assert await output(agent, reading(reference, "cat", "/volume/sub/dir/f")) == "unpacked"
        assert registry.count("GET", "/blobs/") == 5
    assert agent.told("Pulling")[0] == f'Pulling image "{reference}"'
    size = r"Image size: \d+ bytes\."
    text = rf'Successfully pulled image "{reference}" in \S+s \(\S+s including waiting\)\. {size}'
    assert re.fullmatch(text, agent.told("Pulled")[0])
    assert {each.container for each in agent.hub.told if each.reason == "Pulling"} == {""}, "of the pod"
    await agent.library.remove(reference)
    assert not list((agent.directory / "images" / "trees").iterdir())


async def test_an_index_gives_a_volume_whatever_it_is_for(agent: Agent) -> None:
    async with FakeRegistry.running() as registry:
        built = build(files({"a": b"windows"}), platform=("windows", "amd64"))
        _add(registry, built)
        digest = registry.add_manifest("one", json.loads(built.manifest))
        entry = {"mediaType": json.loads(built.manifest)["mediaType"], "digest": digest, "size": len(built.manifest)}
        entry["platform"] = {"os": "windows", "architecture": "amd64"}
        registry.add_manifest("v1", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
        assert await output(agent, reading(f"{registry.address}/test/hello:v1", "cat", "/volume/a")) == "windows"


@pytest.mark.parametrize(
    ("reference", "policy", "reason"),
    [
        ("127.0.0.1:1/gone:1", "", "ImagePullBackOff"),
        ("127.0.0.1:1/gone:1", "Never", "ErrImageNeverPull"),
        ("UPPER/Case:tag", "", "InvalidImageName"),
        ("", "", "InvalidImageName"),
    ],
)
async def test_a_volume_that_cannot_be_pulled_holds_its_containers_up(
    agent: Agent, reference: str, policy: str, reason: str
) -> None:
    submitted = reading(reference, "ls", "/", policy=policy)
    submitted.pod.spec.containers.append(container("other", "hello"))
    agent.dispatch.submit(submitted)
    message = await agent.until_waiting(submitted, reason)
    if reason == "ImagePullBackOff":
        assert message.startswith(f'Back-off pulling image "{reference}": ErrImagePull: ')
        assert agent.told("Failed")[0].startswith(f'Failed to pull image "{reference}": ')
        assert agent.told("Failed")[1] == "Error: ErrImagePull"
        assert agent.told("BackOff")[0] == f'Back-off pulling image "{reference}"'
        assert "Error: ImagePullBackOff" in agent.told("Failed")
    await agent.until(submitted, lambda worker: worker.facts.container("other").last)


async def test_always_brings_what_the_image_is_at_each_start(agent: Agent) -> None:
    async with FakeRegistry.running() as registry:
        for content in (b"one", b"two"):
            built = build(files({"a": content}))
            _add(registry, built)
            registry.add_manifest("v1", json.loads(built.manifest))
            reference = f"{registry.address}/test/hello:v1"
            submitted = reading(reference, "cat", "/volume/a", policy="Always")
            assert await output(agent, submitted) == content.decode()


async def test_init_containers_and_restarts_share_one_volume(agent: Agent) -> None:
    submitted = reading(image(agent, files({"a": b"x"})), "cat", "/volume/a")
    submitted.pod.spec.init_containers.append(
        container("first", "files", "cat", "/volume/a", volume_mounts=[VolumeMount(name="data", mount_path="/volume")])
    )
    assert await output(agent, submitted) == "x"
    assert agent.output(submitted, "first") == b"x"


def _add(registry: FakeRegistry, built: Built) -> None:
    for blob in built.blobs.values():
        registry.add_blob(blob)
