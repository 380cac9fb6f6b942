"""Which nodes a pod wants."""

from typing import Any

import pytest

from wasmlet.kube.types import Pod, PodSpec
from wasmlet.pods.affinity import wants

LABELS = {"zone": "a", "cores": "8", "odd": "eight"}


def wanted(affinity: dict[str, Any] | None = None, **selector: str) -> bool:
    return wants(Pod(spec=PodSpec(node_selector=selector, affinity=affinity)), name="n1", labels=LABELS)


def required(*terms: dict[str, Any]) -> dict[str, Any]:
    selector = {"nodeSelectorTerms": list(terms)}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def test_a_node_selector_needs_every_label() -> None:
    assert wanted()
    assert wanted(zone="a")
    assert not wanted(zone="b")
    assert not wanted(zone="a", other="")


@pytest.mark.parametrize(
    ("term", "fits"),
    [
        (expression("zone", "In", "b", "a"), True),
        (expression("zone", "In", "b"), False),
        (expression("none", "In", "a"), False),
        (expression("zone", "NotIn", "b"), True),
        (expression("none", "NotIn", "b"), True),
        (expression("zone", "NotIn", "a"), False),
        (expression("zone", "Exists"), True),
        (expression("none", "Exists"), False),
        (expression("none", "DoesNotExist"), True),
        (expression("zone", "DoesNotExist"), False),
        (expression("cores", "Gt", "7"), True),
        (expression("cores", "Gt", "8"), False),
        (expression("cores", "Lt", "9"), True),
        (expression("none", "Lt", "9"), False),
        (expression("odd", "Gt", "7"), False),
        (expression("cores", "Gt", "7" * 5000), False),
        (expression("cores", "Gt", "1", "2"), False),
        (expression("zone", "Like", "a"), False),
        (expression("zone", "In"), False),
        (expression("zone", "NotIn"), False),
        ({}, False),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}, True),
        ({"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]}, False),
        ({"matchFields": [{"key": "metadata.name", "operator": "Exists"}]}, False),
        ({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1", "n2"]}]}, False),
    ],
)
def test_terms(term: dict[str, Any], fits: bool) -> None:
    assert wanted(required(term)) is fits
    assert wanted(required(expression("none", "Exists"), term)) is fits, "terms are alternatives"


def test_a_terms_requirements_all_have_to_hold() -> None:
    both = {"matchExpressions": [*expression("zone", "In", "a")["matchExpressions"],
                                 *expression("cores", "Gt", "9")["matchExpressions"]]}  # fmt: skip
    assert not wanted(required(both))


def test_no_terms_fit_nothing_and_preferred_ones_do_not_count() -> None:
    assert not wanted(required())
    assert wanted({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}})
    assert wanted({"podAffinity": {}})


@pytest.mark.parametrize("affinity", [{"nodeAffinity": 1}, required({"matchExpressions": "x"})])
def test_what_cannot_be_understood_fits_nothing(affinity: dict[str, Any]) -> None:
    assert not wanted(affinity)
