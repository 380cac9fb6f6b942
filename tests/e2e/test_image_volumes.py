"""Volumes of images in a cluster (KEP-4639, contract 6.4): what guests find in them, and what is said of them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.file_images import build, files, put
from tests.support.node import Node, node_of_its_own
from tests.support.place import Manifest, Place, container, new_place, pod

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("image volumes"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node, and a registry that has the guests and an image of files."""
    directory = tmp_path_factory.mktemp("image-volumes")
    with node_of_its_own(directory, "files", "sleep") as node:
        publish(node, directory, {"motd": b"one", "etc/release": b"here"})
        yield node


@pytest.fixture
def place(node: Node) -> Iterator[Place]:
    with new_place(node) as place:
        yield place


def publish(node: Node, directory: Path, contents: dict[str, bytes]) -> None:
    """Put the image `data:1` (Linux's, as far as its platform goes) to the registry: by skopeo, from a layout."""
    put(directory / "layout", "localhost/data:1", build(files(contents), platform=("linux", "amd64")))
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]
    subprocess.run([*command, f"oci:{directory}/layout:localhost/data:1", f"docker://{node.images}/data:1"], check=True)


def mounting(place: Place, name: str, *arguments: str, reference: str = "", policy: str = "", **mount: Any) -> Manifest:
    """A pod whose guest `files` has the volume at /volume."""
    image = {"reference": reference or place.image("data"), **({"pullPolicy": policy} if policy else {})}
    mounts = [{"name": "data", "mountPath": "/volume", **mount}]
    main = container(place.image("files"), *arguments, volumeMounts=mounts)
    return pod(name, main, volumes=[{"name": "data", "image": image}])


def waiting(place: Place, name: str) -> dict[str, str]:
    (status,) = place.get("pod", name)["status"].get("containerStatuses", [{}])
    found: dict[str, str] = status.get("state", {}).get("waiting", {})
    return found


def events(place: Place, name: str) -> set[tuple[str, str, str, str]]:
    """Type, reason, text and the part of the pod of all its events."""
    items = place.get("events", f"--field-selector=involvedObject.name={name}")["items"]
    return {
        (each["type"], each["reason"], each["message"], each["involvedObject"].get("fieldPath", "")) for each in items
    }


def test_an_image_is_a_read_only_volume(place: Place) -> None:
    place.apply(
        mounting(place, "reads", "cat", "/volume/motd"),
        mounting(place, "part", "cat", "/volume/release", subPath="etc"),
        mounting(place, "writes", "write", "/volume/new", "x"),
    )
    for name, phase in (("reads", "Succeeded"), ("part", "Succeeded"), ("writes", "Failed")):
        place.wait(f".status.phase={phase}", f"pod/{name}")
    assert (place.logs("reads"), place.logs("part")) == ("one", "here")
    shown = place.get("pod", "reads")
    (status,) = shown["status"]["containerStatuses"]
    # 1.36 has volumeStatus behind the alpha gate ImageVolumeWithDigest, and the API server drops it.
    assert status["volumeMounts"][0] == {"name": "data", "mountPath": "/volume"}
    assert shown["spec"]["volumes"][0]["image"] == {"reference": place.image("data"), "pullPolicy": "IfNotPresent"}
    assert status["image"] == place.image("files")
    place.eventually(lambda: "Started" in {reason for _, reason, _, _ in events(place, "reads")}, "events")
    about = {text: part for _, reason, text, part in events(place, "reads") if reason == "Pulled"}
    there = "already present on machine and can be accessed by the pod"
    pulled = [text for text in about if text.startswith(f'Container image "{place.image("data")}" {there}')]
    pulled += [text for text in about if re.match(rf'Successfully pulled image "{place.image("data")}" in ', text)]
    assert [about[text] for text in pulled] == [""], "the volume's image is the pod's"
    assert "spec.containers{main}" in about.values()


def test_a_running_pod_keeps_what_it_has_and_always_brings_what_is_new(
    place: Place, node: Node, tmp_path: Path
) -> None:
    place.apply(mounting(place, "before", "cat", "/volume/motd", policy="Always"))
    place.wait(".status.phase=Succeeded", "pod/before")
    publish(node, tmp_path, {"motd": b"two", "etc/release": b"here"})
    place.apply(mounting(place, "kept", "cat", "/volume/motd"))
    place.wait(".status.phase=Succeeded", "pod/kept")
    place.apply(mounting(place, "always", "cat", "/volume/motd", policy="Always"))
    place.wait(".status.phase=Succeeded", "pod/always")
    assert [place.logs(name) for name in ("before", "kept", "always")] == ["one", "one", "two"]


def test_an_image_that_is_not_there_holds_its_container_up(place: Place) -> None:
    missing = f"{place.node.images}/missing:1"
    place.apply(
        mounting(place, "missing", "ls", "/volume", reference=missing),
        mounting(place, "never", "ls", "/volume", reference=missing, policy="Never"),
        mounting(place, "wrong", "ls", "/volume", reference="UPPER/Case:tag"),
        mounting(place, "nothing", "ls", "/volume", subPath="nothing"),
    )
    place.eventually(lambda: waiting(place, "missing").get("reason") == "ImagePullBackOff", waiting)
    message = waiting(place, "missing")["message"]
    assert message.startswith(f'Back-off pulling image "{missing}": ErrImagePull: image {missing} is not in ')
    pull_error = message.partition("ErrImagePull: ")[2]
    part = "spec.containers{main}"
    wanted = {
        ("Normal", "Pulling", f'Pulling image "{missing}"', ""),
        ("Warning", "Failed", f'Failed to pull image "{missing}": {pull_error}', ""),
        ("Warning", "Failed", "Error: ErrImagePull", part),
        ("Normal", "BackOff", f'Back-off pulling image "{missing}"', ""),
        ("Warning", "Failed", "Error: ImagePullBackOff", part),
    }
    place.eventually(lambda: wanted <= events(place, "missing"), lambda: events(place, "missing"))

    place.eventually(lambda: waiting(place, "never").get("reason") == "ErrImageNeverPull", waiting)
    text = f'Container image "{missing}" is not present with pull policy of Never'
    assert waiting(place, "never")["message"] == text
    told = {("Warning", "ErrImageNeverPull", text, ""), ("Warning", "Failed", "Error: ErrImageNeverPull", part)}
    place.eventually(lambda: told <= events(place, "never"), lambda: events(place, "never"))

    place.eventually(lambda: waiting(place, "wrong").get("reason") == "InvalidImageName", waiting)
    text = waiting(place, "wrong")["message"]
    assert text.startswith('Failed to apply default image tag "UPPER/Case:tag": ')
    told = {("Warning", "InspectFailed", text, ""), ("Warning", "Failed", "Error: InvalidImageName", part)}
    place.eventually(lambda: told <= events(place, "wrong"), lambda: events(place, "wrong"))

    place.eventually(lambda: waiting(place, "nothing").get("reason") == "CreateContainerError", waiting)
    assert waiting(place, "nothing")["message"].startswith("ImageVolumeMountFailed: nothing is not in image ")
    assert {place.get("pod", name)["status"]["phase"] for name in ("missing", "never", "wrong", "nothing")} == {
        "Pending"
    }


def test_one_volume_serves_init_containers_and_those_that_are_started_again(place: Place) -> None:
    spec = mounting(place, "shared", "cat", "/volume/etc/release")
    spec["spec"]["initContainers"] = [{**spec["spec"]["containers"][0], "name": "first"}]
    place.apply(json.loads(json.dumps(spec)))
    place.wait(".status.phase=Succeeded", "pod/shared")
    assert (place.logs("shared", "-c", "first"), place.logs("shared", "-c", "main")) == ("here", "here")
