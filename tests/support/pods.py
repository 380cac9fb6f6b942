"""Pods of test guests, in few words."""

import uuid
from typing import Any

from tests.support.guests import guest
from wasmlet.kube.types import (
    ConfigMap,
    Container,
    EmptyDirVolume,
    ObjectMeta,
    Pod,
    PodSpec,
    Secret,
    Volume,
    VolumeMount,
)
from wasmlet.pods.bundle import Bundle

DATA = "/data"


def container(name: str = "main", program: str = "exit", *args: str, **fields: Any) -> Container:
    """A container that runs a test guest."""
    return Container(name=name, image=f"file:{guest(program)}", args=list(args), **fields)


def flaky(runs: int, name: str = "main", **fields: Any) -> Container:
    """Fails with 3 until its run number `runs`; counts in a file of the pod's emptyDir `data`, named after itself."""
    mounts = [VolumeMount(name="data", mount_path=DATA)]
    return container(name, "flaky", f"{DATA}/{name}", str(runs), volume_mounts=mounts, **fields)


def data_volume(name: str = "data") -> Volume:
    """An emptyDir; `flaky` counts in the one named `data`."""
    return Volume(name=name, empty_dir=EmptyDirVolume())


def pod(*containers: Container, name: str = "", namespace: str = "default", **spec: Any) -> Pod:
    """A pod with a UID, and a name of its own unless said; `restartPolicy` is Never unless said."""
    spec.setdefault("restart_policy", "Never")
    uid = str(uuid.uuid4())
    meta = ObjectMeta(name=name or f"pod-{uid[:8]}", namespace=namespace, uid=uid, generation=1)
    return Pod(metadata=meta, spec=PodSpec(containers=list(containers), **spec))


def bundle(
    *containers: Container, config_maps: list[ConfigMap] | None = None, secrets: list[Secret] | None = None, **spec: Any
) -> Bundle:
    """A bundle of one pod."""
    return Bundle(pod=pod(*containers, **spec), config_maps=config_maps or [], secrets=secrets or [])


def config_map(name: str, **data: str) -> ConfigMap:
    """A ConfigMap in the default namespace."""
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data=data)
