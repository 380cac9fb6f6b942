"""What Services add to an environment."""

from wasmlet.kube.services import Service, ServicePort, ServiceSpec, variables
from wasmlet.kube.types import ObjectMeta


def service(name: str, *, namespace: str = "default", address: str = "10.0.0.11", ports: list[ServicePort]) -> Service:
    return Service(
        metadata=ObjectMeta(name=name, namespace=namespace, uid=f"{namespace}/{name}"),
        spec=ServiceSpec(cluster_ip=address, ports=ports),
    )


API = service("kubernetes", address="10.96.0.1", ports=[ServicePort(name="https", port=443)])
REDIS = service("redis-primary", namespace="shop", ports=[ServicePort(port=6379), ServicePort(port=53, protocol="UDP")])


def test_the_documented_example() -> None:
    assert variables([REDIS], "shop", links=True) == {
        "REDIS_PRIMARY_SERVICE_HOST": "10.0.0.11",
        "REDIS_PRIMARY_SERVICE_PORT": "6379",
        "REDIS_PRIMARY_PORT": "tcp://10.0.0.11:6379",
        "REDIS_PRIMARY_PORT_6379_TCP": "tcp://10.0.0.11:6379",
        "REDIS_PRIMARY_PORT_6379_TCP_PROTO": "tcp",
        "REDIS_PRIMARY_PORT_6379_TCP_PORT": "6379",
        "REDIS_PRIMARY_PORT_6379_TCP_ADDR": "10.0.0.11",
        "REDIS_PRIMARY_PORT_53_UDP": "udp://10.0.0.11:53",
        "REDIS_PRIMARY_PORT_53_UDP_PROTO": "udp",
        "REDIS_PRIMARY_PORT_53_UDP_PORT": "53",
        "REDIS_PRIMARY_PORT_53_UDP_ADDR": "10.0.0.11",
    }


def test_the_api_server_is_told_to_all() -> None:
    found = variables([API, REDIS], "elsewhere", links=True)
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert found["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert not any(name.startswith("REDIS") for name in found)
    assert variables([API, REDIS], "shop", links=False) == variables([API], "shop", links=True)


def test_a_service_without_an_address_is_passed_over() -> None:
    assert variables([service("headless", address="None", ports=[ServicePort(port=1)])], "default", links=True) == {}


def test_an_address_of_the_new_kind_is_bracketed() -> None:
    found = variables([service("six", address="fd00::1", ports=[ServicePort(port=80)])], "default", links=True)
    assert found["SIX_PORT"] == "tcp://[fd00::1]:80"
    assert found["SIX_SERVICE_HOST"] == "fd00::1"
