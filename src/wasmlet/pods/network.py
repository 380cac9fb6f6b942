"""A pod's way into the network, as its engine is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wasmlet.base.files import read_if_present
from wasmlet.kube.types import Pod
from wasmlet.pods import hosts
from wasmlet.sandbox import protocol

RESOLV_CONF = Path("/etc/resolv.conf")
HOSTS = Path("/etc/hosts")


def way(pod: Pod, pod_ips: Sequence[str]) -> protocol.Network:
    """The pod's addresses, and the contents of /etc/hosts and /etc/resolv.conf (contract 6.2).

    The engine looks names up by what the guest can read. Pods of the host's network have the node's hosts file.

    Raises:
        UserError: The pod's name makes no hostname.
    """
    resolved = hosts.resolv_conf(pod, cluster_dns=(), cluster_domain="", node_file=_text(RESOLV_CONF))
    if pod.spec.host_network:
        hosts_file = hosts.node_hosts_file(_text(HOSTS), pod.spec.host_aliases)
    else:
        hosts_file = hosts.hosts_file(hosts.pod_names(pod, cluster_domain=""), pod_ips, pod.spec.host_aliases)
    return protocol.Network(
        addresses=list(pod_ips), host=pod.spec.host_network, hosts=hosts_file, resolv_conf=resolved.content
    )


def _text(path: Path) -> str:
    return (read_if_present(path) or b"").decode(errors="replace")
