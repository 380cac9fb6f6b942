"""Paths of objects."""

import msgspec
import pytest

from wasmlet.base.errors import WasmletError
from wasmlet.kube.resources import PODS, Resource
from wasmlet.kube.types import ObjectMeta


class Lease(msgspec.Struct):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


class Machine(msgspec.Struct):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


LEASES = Resource(Lease, "coordination.k8s.io/v1", "leases")
NODES = Resource(Machine, "v1", "nodes", is_namespaced=False)


def test_paths() -> None:
    assert PODS.collection() == "/api/v1/pods"
    assert PODS.path(namespace="a", name="b", subresource="status") == "/api/v1/namespaces/a/pods/b/status"
    assert LEASES.collection("a") == "/apis/coordination.k8s.io/v1/namespaces/a/leases"
    assert NODES.path(name="n") == "/api/v1/nodes/n"


@pytest.mark.parametrize(
    ("namespace", "name"), [("", "web"), ("a", ".."), ("a", "../../nodes"), ("..", "web"), ("a/b", "web")]
)
def test_a_name_cannot_become_another_path(namespace: str, name: str) -> None:
    with pytest.raises(WasmletError):
        PODS.path(namespace=namespace, name=name)


def test_strange_letters_stay_one_segment() -> None:
    assert PODS.path(namespace="a", name="b?c#d%2e e") == "/api/v1/namespaces/a/pods/b%3Fc%23d%252e%20e"


def test_a_node_has_no_namespace() -> None:
    with pytest.raises(WasmletError):
        NODES.path(namespace="a", name="n")
