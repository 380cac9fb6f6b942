"""What a pod says about itself, as text: fieldRef and resourceFieldRef, for variables and for downward volumes.

Texts and error messages are the kubelet's (pkg/fieldpath, pkg/api/v1/resource).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wasmlet.base import quantity
from wasmlet.base.errors import UserError
from wasmlet.kube.types import Container, Pod, ResourceFieldSelector

__all__ = ["PodFields", "memory_limit", "metadata_text", "pod_text", "resource_text"]

GO_ESCAPES = {
    "\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v", "\\": r"\\", '"': r"\"",
}  # fmt: skip


@dataclass(frozen=True)
class PodFields:
    """What the node knows of a pod and the pod's own spec does not say.

    Attributes:
        node_name: Used when `spec.nodeName` is empty (no scheduler bound the pod).
        host_ips: Addresses of the node, the first is `status.hostIP`.
        pod_ips: Addresses of the pod, the first is `status.podIP`; empty before its sandbox is up.
        allocatable: The node's allocatable resources: what a missing limit means.
    """

    node_name: str = ""
    host_ips: tuple[str, ...] = ()
    pod_ips: tuple[str, ...] = ()
    allocatable: Mapping[str, quantity.Quantity] = field(default_factory=dict)


def metadata_text(pod: Pod, path: str) -> str:
    """A `metadata.…` field, the only ones that a downward volume may name.

    Raises:
        UserError: The path is not supported.
    """
    metadata = pod.metadata
    base, subscript = _split_subscript(path)
    if subscript is not None:
        maps = {"metadata.labels": metadata.labels, "metadata.annotations": metadata.annotations}
        if base not in maps:
            raise UserError(f'fieldPath "{path}" does not support subscript')
        return maps[base].get(subscript, "")
    texts = {"metadata.name": metadata.name, "metadata.namespace": metadata.namespace, "metadata.uid": metadata.uid}
    if path in texts:
        return texts[path]
    if path == "metadata.labels":
        return _format_map(metadata.labels)
    if path == "metadata.annotations":
        return _format_map(metadata.annotations)
    raise UserError(f"unsupported fieldPath: {path}", hint="a field of metadata, status.podIP and the like")


def pod_text(pod: Pod, path: str, *, fields: PodFields) -> str:
    """Any field that a variable may name (contract 6.1); lists are joined with commas.

    Raises:
        UserError: The path is not supported.
    """
    match path:
        case "spec.nodeName":
            return pod.spec.node_name or fields.node_name
        case "spec.serviceAccountName":
            return pod.spec.service_account_name
        case "status.hostIP":
            return next(iter(fields.host_ips), "")
        case "status.hostIPs":
            return ",".join(fields.host_ips)
        case "status.podIP":
            return next(iter(fields.pod_ips), "")
        case "status.podIPs":
            return ",".join(fields.pod_ips)
    return metadata_text(pod, path)


def resource_text(pod: Pod, selector: ResourceFieldSelector, *, container: Container | None, fields: PodFields) -> str:
    """A container's request or limit in units of the divisor, rounded up.

    A missing limit of cpu, memory or ephemeral-storage is the pod's own, else the node's allocatable; any other
    missing value is 0.

    Args:
        container: Whose resources when the selector names no container; None where it must name one (volumes).

    Raises:
        UserError: No such container or resource, or a quantity that is none.
    """
    if selector.container_name:
        container = _find_container(pod, selector.container_name)
    if container is None:
        raise UserError("resourceFieldRef needs a containerName here")
    bound, _, resource = selector.resource.partition(".")
    plain = resource in ("cpu", "memory", "ephemeral-storage")
    if bound not in ("limits", "requests") or not (plain or resource.startswith("hugepages-")):
        raise UserError(f"Unsupported container resource : {selector.resource}")
    resources = container.resources
    if bound == "requests":
        value = resources.requests.get(resource, 0)
    else:
        value = resources.limits.get(resource, 0)
        if plain and not quantity.parse(value):
            pod_limits = pod.spec.resources.limits if pod.spec.resources else {}
            value = pod_limits.get(resource, fields.allocatable.get(resource, 0))
    return str(quantity.ceil_divided(value, selector.divisor or "1"))


def memory_limit(pod: Pod) -> int | None:
    """Bytes that the pod may use at most; None when a container has no limit and the pod has none itself."""
    if pod.spec.resources is not None and "memory" in pod.spec.resources.limits:
        return quantity.ceil(pod.spec.resources.limits["memory"])
    limits = [container.resources.limits.get("memory") for container in pod.spec.containers]
    known = [quantity.ceil(limit) for limit in limits if limit is not None]
    return sum(known) if limits and len(known) == len(limits) else None


def _find_container(pod: Pod, name: str) -> Container:
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        if container.name == name:
            return container
    raise UserError(f"container {name} not found")


def _split_subscript(path: str) -> tuple[str, str | None]:
    """`metadata.labels['k']` → ("metadata.labels", "k")."""
    base, opening, rest = path.partition("['")
    if opening and base and rest.endswith("']"):
        return base, rest.removesuffix("']")
    return path, None


def _format_map(values: Mapping[str, str]) -> str:
    """Lines `key="escaped"`, sorted by key, no final newline (contract 6.4)."""
    return "\n".join(f"{key}={_quoted(values[key])}" for key in sorted(values))


def _quoted(text: str) -> str:
    """Go's %q: programs parse these files with strconv.Unquote."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in GO_ESCAPES:
        return GO_ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
