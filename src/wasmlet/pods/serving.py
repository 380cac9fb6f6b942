"""Where a container serves, as its pod says. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from wasmlet.base.errors import UserError
from wasmlet.kube.types import Container, Pod
from wasmlet.sandbox import protocol

DEFAULT_PORT = 8080
"""The port of a container that names none, nor its image (design section 2)."""

REUSE_ANNOTATION = "wasmlet.dev/http-reuse"
"""How many requests one instance may serve. Where it is absent the engine's default for the guest's WASI holds: 1 for
0.2, so that no request sees what another one left; 128 for 0.3."""


def http(
    pod: Pod,
    container: Container,
    *,
    kind: str,
    pod_ips: Sequence[str],
    exposed_ports: Sequence[int] = (),
    components: Sequence[protocol.Component] = (),
) -> protocol.Http | None:
    """The engine's orders for a guest of this kind; None for one that serves nothing.

    Args:
        exposed_ports: What the image says, for a container that names no port.
        components: Of an application.

    Raises:
        UserError: The annotation is no whole number from 1 on.
    """
    if kind != "http":
        return None
    ports = [each.container_port for each in container.ports if each.protocol == "TCP"]
    return protocol.Http(
        addresses=list(pod_ips),
        ports=list(dict.fromkeys(ports)) or [*exposed_ports] or [DEFAULT_PORT],
        reuse=_reuse(pod),
        components=list(components),
    )


def addresses(container: Container, orders: protocol.Http | None, *, pod_ips: Sequence[str]) -> list[str]:
    """Where a container can be reached: `http://HOST:PORT/` of each of its listeners.

    What a command listens on is its own business; its containerPorts say what it means to, as `tcp://HOST:PORT`.
    """
    if orders is not None:
        return [f"http://{host}:{port}/" for host in _hosts(orders.addresses) for port in orders.ports]
    ports = dict.fromkeys((each.protocol.lower(), each.container_port) for each in container.ports)
    return [f"{scheme}://{host}:{port}" for host in _hosts(pod_ips) for scheme, port in ports]


def _hosts(addresses: Sequence[str]) -> list[str]:
    return [f"[{address}]" if ":" in address else address for address in addresses]


def _reuse(pod: Pod) -> int | None:
    text = pod.metadata.annotations.get(REUSE_ANNOTATION)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**32):
        raise UserError(f"the annotation {REUSE_ANNOTATION} is {text!r}", hint="it is a whole number from 1 on")
    return int(text)
