"""Where a container serves."""

from typing import Any

import pytest

from wasmlet.base.errors import UserError
from wasmlet.kube.types import Container, ContainerPort, ObjectMeta, Pod
from wasmlet.pods.serving import REUSE_ANNOTATION, addresses, http


def orders(*ports: ContainerPort, annotations: dict[str, str] | None = None, kind: str = "http") -> Any:
    pod = Pod(metadata=ObjectMeta(name="web", annotations=annotations or {}))
    return http(pod, Container(name="c", ports=list(ports)), kind=kind, pod_ips=["127.88.0.3"])


def test_every_tcp_port_once() -> None:
    made = orders(
        ContainerPort(container_port=80),
        ContainerPort(container_port=53, protocol="UDP"),
        ContainerPort(container_port=81, name="a"),
        ContainerPort(container_port=81, name="b"),
    )
    assert (made.addresses, made.ports, made.reuse) == (["127.88.0.3"], [80, 81], None)
    assert addresses(Container(name="c"), made, pod_ips=[]) == ["http://127.88.0.3:80/", "http://127.88.0.3:81/"]


def test_without_ports_8080() -> None:
    assert orders().ports == [8080]


def test_a_command_listens_itself() -> None:
    assert orders(ContainerPort(container_port=80), kind="command") is None
    assert addresses(Container(name="c"), None, pod_ips=["127.88.0.3"]) == []
    ports = [
        ContainerPort(container_port=80),
        ContainerPort(container_port=53, protocol="UDP"),
        ContainerPort(container_port=80),
    ]
    assert addresses(Container(name="c", ports=ports), None, pod_ips=["127.88.0.3", "fd00::1"]) == [
        "tcp://127.88.0.3:80", "udp://127.88.0.3:53", "tcp://[fd00::1]:80", "udp://[fd00::1]:53",
    ]  # fmt: skip


def test_every_address_and_those_of_version_6_in_brackets() -> None:
    pod = Pod(metadata=ObjectMeta(name="web"))
    orders = http(pod, Container(name="c"), kind="http", pod_ips=["10.0.0.1", "fd00::1"])
    assert addresses(Container(name="c"), orders, pod_ips=[]) == ["http://10.0.0.1:8080/", "http://[fd00::1]:8080/"]


def test_the_annotation_says_how_often_an_instance_serves() -> None:
    assert orders(annotations={REUSE_ANNOTATION: "100"}).reuse == 100


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "many", "٣", "99999999999"])
def test_an_annotation_that_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="whole number"):
        orders(annotations={REUSE_ANNOTATION: text})
