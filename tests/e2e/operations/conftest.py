"""One cluster for this folder, which writes down what nodes ask, and nodes of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.operations.node import Join, OwnNode
from tests.support.cluster import Cluster, running_cluster
from tests.support.processes import end_all
from tests.support.registry import docker_registry

AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - { level: Metadata, userGroups: ["system:nodes"] }
  - { level: None }
"""


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all tests here, which writes down what nodes ask."""
    place = tmp_path_factory.mktemp("operations")
    (place / "audit.yaml").write_text(AUDIT_POLICY)
    extra = [
        f"kube-apiserver=--audit-policy-file={place / 'audit.yaml'}",
        f"kube-apiserver=--audit-log-path={place / 'audit.log'}",
    ]
    with running_cluster(place / "cluster", extra=extra) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry's address; the guests in it are pushed by `OwnNode.image`."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry.address


@pytest.fixture
def join(tmp_path: Path, cluster: Cluster, images: str) -> Iterator[Join]:
    """Makes nodes, of which nothing outlives the test."""
    nodes: list[OwnNode] = []

    def made(name: str) -> OwnNode:
        nodes.append(OwnNode(tmp_path / name, cluster, images, name))
        return nodes[-1]

    yield made
    for node in nodes:
        node.kill()
        end_all(node.wasmlet.state)
