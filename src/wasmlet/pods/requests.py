"""What a pod asks of its node, as the scheduler counts it (kubelet-contract section 10, KEP-753, KEP-2837). Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction

from wasmlet.base import quantity
from wasmlet.kube.types import Container, Pod, ResourceRequirements

__all__ = ["Amounts", "amounts_of", "of_pod", "total"]

Amounts = Mapping[str, int]
"""By resource: cpu in thousandths of a core, memory and storage in bytes, others in their own unit; rounded up."""

_Exact = dict[str, Fraction]


def of_pod(pod: Pod) -> Amounts:
    """The pod's requests: its own where it has any, else what its containers need at the worst moment; with overhead.

    App containers and sidecars run together; before them each init container runs beside the earlier sidecars. A limit
    without a request counts as one, as the API server fills it in.

    Raises:
        UserError: A quantity that is none (`validation` finds it before).
    """
    exact = _largest(_together(pod), _while_initializing(pod))
    own = pod.spec.resources
    if own is not None:
        exact |= {name: quantity.parse(amount) for name, amount in own.requests.items() if _is_of_pod_level(name)}
    return _rounded(_sum(exact, _parsed(pod.spec.overhead)))


def amounts_of(quantities: Mapping[str, quantity.Quantity]) -> Amounts:
    """A list of quantities, such as a node's allocatable, in the units of requests. Raises UserError."""
    return _rounded(_parsed(quantities))


def total(requests: Iterable[Amounts]) -> dict[str, int]:
    """The sum."""
    found: dict[str, int] = {}
    for each in requests:
        for name, amount in each.items():
            found[name] = found.get(name, 0) + amount
    return found


def _together(pod: Pod) -> _Exact:
    found: _Exact = {}
    for container in (*pod.spec.containers, *filter(_stays, pod.spec.init_containers)):
        found = _sum(found, _requested(container.resources))
    return found


def _while_initializing(pod: Pod) -> _Exact:
    peak: _Exact = {}
    sidecars: _Exact = {}
    for container in pod.spec.init_containers:
        wanted = _sum(sidecars, _requested(container.resources))
        peak = _largest(peak, wanted)
        if _stays(container):
            sidecars = wanted
    return peak


def _stays(container: Container) -> bool:
    """Whether an init container is a sidecar."""
    return container.restart_policy == "Always"


def _requested(resources: ResourceRequirements) -> _Exact:
    return _parsed({**resources.limits, **resources.requests})


def _is_of_pod_level(name: str) -> bool:
    return name in ("cpu", "memory") or name.startswith("hugepages-")


def _parsed(quantities: Mapping[str, quantity.Quantity]) -> _Exact:
    return {name: quantity.parse(amount) for name, amount in quantities.items()}


def _sum(one: _Exact, other: _Exact) -> _Exact:
    return one | {name: one.get(name, Fraction(0)) + amount for name, amount in other.items()}


def _largest(one: _Exact, other: _Exact) -> _Exact:
    return one | {name: max(one.get(name, amount), amount) for name, amount in other.items()}


def _rounded(exact: _Exact) -> Amounts:
    return {name: math.ceil(amount * (1000 if name == "cpu" else 1)) for name, amount in exact.items()}
