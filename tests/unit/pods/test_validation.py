"""What no node could run."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.pods import container, data_volume, pod
from wasmlet.kube.types import (
    Container,
    ObjectMeta,
    Pod,
    PodSpec,
    Probe,
    ResourceRequirements,
    TCPSocketAction,
    Volume,
    VolumeMount,
)
from wasmlet.pods.validation import is_uid, problem_of


def good() -> Pod:
    mounts = [VolumeMount(name="data", mount_path="/data")]
    return pod(container("a", volume_mounts=mounts), init_containers=[container("b")], volumes=[data_volume()])


def test_a_good_pod_is_admitted() -> None:
    assert problem_of(good()) == ""


def change(text: str, value: object) -> Callable[[Pod], None]:
    """Set a field given as a path of attributes."""

    def act(subject: Pod) -> None:
        target: object = subject
        *path, last = text.split(".")
        for each in path:
            target = target[int(each)] if each.isdigit() else getattr(target, each)  # type: ignore[index]
        setattr(target, last, value)

    return act


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("metadata.name", "", "metadata.name ''"),
        ("metadata.name", "../x", "metadata.name '../x'"),
        ("metadata.name", "Upper", "metadata.name"),
        ("metadata.name", "a" * 254, "metadata.name"),
        ("metadata.name", "a\n", "metadata.name"),
        ("metadata.name", "a..b", "metadata.name"),
        ("metadata.namespace", "", "metadata.namespace"),
        ("metadata.namespace", "a.b", "metadata.namespace"),
        ("metadata.namespace", "a/b", "metadata.namespace"),
        ("metadata.namespace", "a" * 64, "metadata.namespace"),
        ("metadata.uid", "a/b", "metadata.uid"),
        ("spec.containers", [], "spec.containers is empty"),
        ("spec.restart_policy", "Sometimes", "'Sometimes' is none of Always, OnFailure, Never"),
        ("spec.containers.0.name", "a.b", "container 'a.b': its name is no DNS label"),
        ("spec.containers.0.name", "", "its name is no DNS label"),
        ("spec.containers.0.name", "b", "container 'b': two containers have this name"),
        ("spec.containers.0.image", "", "container 'a' has no image"),
        ("spec.containers.0.restart_policy", "No", "restartPolicy 'No' is none"),
        ("spec.volumes", [], "container 'a' mounts 'data', which is not in spec.volumes"),
        ("spec.containers.0.volume_mounts.0.mount_path", "", "the mount of 'data' has no mountPath"),
        ("spec.volumes.0.name", "Data", "mounts 'data', which is not"),
        ("spec.volumes", [Volume(name="data"), Volume(name="data")], "volume 'data': two volumes have this name"),
        ("spec.volumes", [Volume(name="data"), Volume(name="../x")], "volume '../x': its name is no DNS label"),
        ("spec.init_containers", [Container(name="..", image="i")], "container '..': its name is no DNS label"),
    ],
)
def test_what_is_refused(field: str, value: object, text: str) -> None:
    subject = good()
    change(field, value)(subject)
    assert text in problem_of(subject)


@pytest.mark.parametrize("name", ["a", "a.b.c", "a-b.c1", "0", "a" * 63, ".".join(["a" * 60] * 4)])
def test_good_names(name: str) -> None:
    subject = good()
    subject.metadata.name = name
    assert problem_of(subject) == ""


@pytest.mark.parametrize(
    ("text", "good"),
    [("5f0c2f6e-2d4b-4f0e-9c59-0e8a4a0f4b11", True), ("0" * 32, True), ("", False), ("-a", False), ("a.b", False)],
)
def test_uids(text: str, good: bool) -> None:
    assert is_uid(text) == good


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_pull_policy": "never"}, "imagePullPolicy 'never'"),
        ({"command": [""]}, "command[0] is empty"),
        ({"liveness_probe": Probe()}, "exactly one of"),
        ({"readiness_probe": Probe(tcp_socket=TCPSocketAction(port=99999))}, "port 99999"),
        ({"resources": ResourceRequirements(limits={"memory": "64MiB"})}, "64MiB"),
        ({"resources": ResourceRequirements(limits={"memory": -1})}, "negative"),
    ],
)
def test_what_the_api_server_would_refuse_of_a_container(changes: dict[str, Any], said: str) -> None:
    pod = Pod(
        metadata=ObjectMeta(name="p", namespace="default", uid="u"),
        spec=PodSpec(containers=[Container(name="c", image="i", **changes)]),
    )
    assert said in problem_of(pod)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"active_deadline_seconds": 0}, "activeDeadlineSeconds 0"),
        ({"overhead": {"cpu": "x"}}, "spec.overhead: cpu"),
        ({"resources": ResourceRequirements(requests={"cpu": "-1"})}, "spec.resources.requests: the quantity -1"),
    ],
)
def test_what_the_api_server_would_refuse_of_a_pod(changes: dict[str, Any], said: str) -> None:
    pod = Pod(
        metadata=ObjectMeta(name="p", namespace="default", uid="u"),
        spec=PodSpec(containers=[Container(name="c", image="i")], **changes),
    )
    assert said in problem_of(pod)


def test_a_negative_grace_is_a_short_one_as_the_api_server_has_it() -> None:
    subject = good()
    subject.spec.termination_grace_period_seconds = -5
    assert problem_of(subject) == ""
