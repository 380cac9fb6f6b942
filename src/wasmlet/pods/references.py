"""What a pod refers to: ConfigMaps and Secrets, which its node may read and has to follow, and images. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from wasmlet.base.errors import UserError
from wasmlet.images.reference import parse
from wasmlet.kube.types import Container, Pod, Volume

Kind = Literal["ConfigMap", "Secret"]


def references_of(pod: Pod) -> set[tuple[Kind, str]]:
    """(kind, name) of each: of variables, volumes, pull secrets, as the Node authorizer counts them (contract 13)."""
    found: set[tuple[Kind, str]] = {("Secret", each.name) for each in pod.spec.image_pull_secrets if each.name}
    for container in [*pod.spec.init_containers, *pod.spec.containers, *pod.spec.ephemeral_containers]:
        found.update(_of_container(container))
    for volume in pod.spec.volumes:
        found.update(_of_volume(volume))
    return found


def images_of(pod: Pod) -> set[str]:
    """The canonical references of its containers' and volumes' images; what is none is left out."""
    containers = [*pod.spec.init_containers, *pod.spec.containers, *pod.spec.ephemeral_containers]
    names = [volume.image.reference for volume in pod.spec.volumes if volume.image is not None]
    found = set[str]()
    for name in [*names, *(container.image for container in containers)]:
        with contextlib.suppress(UserError):
            found.add(str(parse(name)))
    return found


def _of_container(container: Container) -> Iterator[tuple[Kind, str]]:
    for source in container.env_from:
        if source.config_map_ref is not None:
            yield "ConfigMap", source.config_map_ref.name
        if source.secret_ref is not None:
            yield "Secret", source.secret_ref.name
    for variable in container.env:
        value_from = variable.value_from
        if value_from is not None and value_from.config_map_key_ref is not None:
            yield "ConfigMap", value_from.config_map_key_ref.name
        if value_from is not None and value_from.secret_key_ref is not None:
            yield "Secret", value_from.secret_key_ref.name


def _of_volume(volume: Volume) -> Iterator[tuple[Kind, str]]:
    if volume.config_map is not None:
        yield "ConfigMap", volume.config_map.name
    if volume.secret is not None:
        yield "Secret", volume.secret.secret_name
    for projection in volume.projected.sources if volume.projected is not None else []:
        if projection.config_map is not None:
            yield "ConfigMap", projection.config_map.name
        if projection.secret is not None:
            yield "Secret", projection.secret.name
