"""Whether a node is one of those that a pod wants: nodeSelector, and required node affinity. Pure.

The rules are the scheduler's (component-helpers, scheduling/corev1/nodeaffinity); preferred terms do not count here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from wasmlet.kube.types import Leaf, Node, Pod

__all__ = ["wants"]

_INTEGER = re.compile(r"[+-]?[0-9]+")
MAXIMUM_DIGITS = 19
"""Go reads these values as 64 bits; Python would read any length, in its own time."""


class _Requirement(Leaf):
    key: str = ""
    operator: str = ""
    values: list[str] = []


class _Term(Node):
    match_expressions: list[_Requirement] = []
    match_fields: list[_Requirement] = []


class _Selector(Node):
    node_selector_terms: list[_Term] = []


class _NodeAffinity(Node):
    required: _Selector | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")


class _Affinity(Node):
    node_affinity: _NodeAffinity | None = None


def wants(pod: Pod, *, name: str, labels: Mapping[str, str]) -> bool:
    """Whether the pod may run on the node of that name and those labels.

    A term that cannot be understood fits no node.
    """
    if any(labels.get(key) != value for key, value in pod.spec.node_selector.items()):
        return False
    try:
        affinity = msgspec.convert(pod.spec.affinity or {}, _Affinity)
    except msgspec.ValidationError:
        return False
    if affinity.node_affinity is None or affinity.node_affinity.required is None:
        return True
    return any(_fits(term, name, labels) for term in affinity.node_affinity.required.node_selector_terms)


def _fits(term: _Term, name: str, labels: Mapping[str, str]) -> bool:
    """All of a term's requirements; an empty one fits nothing."""
    if not term.match_expressions and not term.match_fields:
        return False
    fields = all(_holds_for_field(each, {"metadata.name": name}) for each in term.match_fields)
    return fields and all(_holds(each, labels) for each in term.match_expressions)


def _holds(requirement: _Requirement, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(requirement.key), requirement.values
    match requirement.operator:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return bool(values) and value not in values
        case "Exists":
            return value is not None and not values
        case "DoesNotExist":
            return value is None and not values
        case "Gt" | "Lt" if value is not None and len(values) == 1 and _are_integers(value, values[0]):
            bigger = int(value) > int(values[0])
            return bigger if requirement.operator == "Gt" else int(value) < int(values[0])
    return False


def _holds_for_field(requirement: _Requirement, fields: Mapping[str, str]) -> bool:
    """Fields know In and NotIn of one value only."""
    return requirement.operator in ("In", "NotIn") and len(requirement.values) == 1 and _holds(requirement, fields)


def _are_integers(*texts: str) -> bool:
    return all(len(text) <= MAXIMUM_DIGITS and _INTEGER.fullmatch(text) for text in texts)
