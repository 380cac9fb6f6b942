"""A pod's quality of service: who gives way first when the node is short of something (kubelet-contract 4.3). Pure."""

from __future__ import annotations

from wasmlet.base import quantity
from wasmlet.base.errors import UserError
from wasmlet.kube.types import Pod

__all__ = ["BEST_EFFORT", "BURSTABLE", "GUARANTEED", "qos_class"]

BEST_EFFORT = "BestEffort"
BURSTABLE = "Burstable"
GUARANTEED = "Guaranteed"


def qos_class(pod: Pod) -> str:
    """By cpu and memory alone: the pod's own resources where it has any, else its containers' (contract 4.3)."""
    resources = [each.resources for each in [*pod.spec.containers, *pod.spec.init_containers]]
    if pod.spec.resources is not None and (pod.spec.resources.limits or pod.spec.resources.requests):
        resources = [pod.spec.resources]
    if not any(name in each.limits or name in each.requests for each in resources for name in ("cpu", "memory")):
        return BEST_EFFORT
    for each in resources:
        for name in ("cpu", "memory"):
            limit = each.limits.get(name)
            if limit is None or not _are_equal(each.requests.get(name, limit), limit):
                return BURSTABLE
    return GUARANTEED


def _are_equal(one: quantity.Quantity, other: quantity.Quantity) -> bool:
    try:
        return quantity.parse(one) == quantity.parse(other)
    except UserError:  # the start says so; a status has to be made all the same
        return str(one) == str(other)
