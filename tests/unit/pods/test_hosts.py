"""Contract 6.2: hostname, /etc/hosts, resolv.conf."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from wasmlet.base.errors import UserError
from wasmlet.kube.types import HostAlias, Pod
from wasmlet.pods.hosts import Names, hosts_file, node_hosts_file, pod_names, resolv_conf

NODE_FILE = "# comment\nnameserver 9.9.9.9\nsearch old\nsearch corp.example. .\noptions timeout:2 rotate\n"


def pod(name: str = "web-0", **spec: Any) -> Pod:
    return msgspec.convert({"metadata": {"name": name, "namespace": "n", "uid": "u"}, "spec": spec}, Pod)


@pytest.mark.parametrize(
    ("of", "names"),
    [
        (pod(), Names("web-0", "web-0", "")),
        (pod(hostname="h"), Names("h", "h", "")),
        (pod(hostname="h", subdomain="sub"), Names("h", "h", "sub.n.svc.cluster.local")),
        (pod(hostname="h", subdomain="sub", setHostnameAsFQDN=True),
         Names("h.sub.n.svc.cluster.local", "h", "sub.n.svc.cluster.local")),
        (pod(setHostnameAsFQDN=True), Names("web-0", "web-0", "")),
        (pod(hostnameOverride="my.own.name", hostname="h", subdomain="sub"), Names("my.own.name", "my.own.name", "")),
        (pod("x" * 62 + "--y"), Names("x" * 62, "x" * 62, "")),
        (pod("x" * 63), Names("x" * 63, "x" * 63, "")),
        (pod(hostNetwork=True), Names("node", "web-0", "")),
    ],
)  # fmt: skip
def test_names(of: Pod, names: Names) -> None:
    assert pod_names(of, cluster_domain="cluster.local", node_hostname="node") == names


@pytest.mark.parametrize(
    ("of", "message"),
    [
        (pod(hostname="Not_a_label"), "is not a valid DNS label"),
        (pod(subdomain="a.b"), "is not a valid DNS label"),
        (pod(hostname="h" * 50, subdomain="sub", setHostnameAsFQDN=True),
         r"is too long \(64 characters is the max, 74 characters requested\)"),
        (pod("-" * 64), "was invalid"),
    ],
)  # fmt: skip
def test_names_that_cannot_be(of: Pod, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pod_names(of, cluster_domain="cluster.local")


def test_the_hosts_file_is_the_kubelets() -> None:
    aliases = [HostAlias(ip="1.2.3.4", hostnames=["a", "b"]), HostAlias(ip="::2", hostnames=["c"])]
    assert hosts_file(Names("h", "h", "sub.n.svc.x"), ["10.0.0.1", "fd00::1"], aliases) == (
        "# Kubernetes-managed hosts file.\n"
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\n"
        "fe00::0\tip6-mcastprefix\n"
        "fe00::1\tip6-allnodes\n"
        "fe00::2\tip6-allrouters\n"
        "10.0.0.1\th.sub.n.svc.x\th\n"
        "fd00::1\th.sub.n.svc.x\th\n"
        "\n"
        "# Entries added by HostAliases.\n"
        "1.2.3.4\ta\tb\n"
        "::2\tc\n"
    )
    assert hosts_file(Names("h", "h", ""), ["10.0.0.1"]).endswith("ip6-allrouters\n10.0.0.1\th\n")


def test_the_nodes_hosts_file_is_kept_under_a_header() -> None:
    expected = (
        "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n\n# Entries added by HostAliases.\n1.1.1.1\ta\n"
    )
    assert node_hosts_file("127.0.0.1 x\n", [HostAlias(ip="1.1.1.1", hostnames=["a"])]) == expected


def resolved(
    of: Pod, *, dns: tuple[str, ...] = ("10.96.0.10",), domain: str = "cluster.local"
) -> tuple[str, list[str]]:
    result = resolv_conf(of, cluster_dns=dns, cluster_domain=domain, node_file=NODE_FILE)
    return result.content, [reason for reason, _ in result.warnings]


NODE = "search corp.example .\nnameserver 9.9.9.9\noptions timeout:2 rotate\n"
CLUSTER = (
    "search n.svc.cluster.local svc.cluster.local cluster.local corp.example .\n"
    "nameserver 10.96.0.10\noptions ndots:5\n"
)


@pytest.mark.parametrize(
    ("of", "content"),
    [
        (pod(), CLUSTER),
        (pod(hostNetwork=True), NODE),
        (pod(dnsPolicy="ClusterFirstWithHostNet", hostNetwork=True), CLUSTER),
        (pod(dnsPolicy="Default"), NODE),
        (pod(dnsPolicy="None"), ""),
        (pod(dnsPolicy="None", dnsConfig={"nameservers": ["1.1.1.1"], "searches": ["a"],
                                          "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}),
         "search a\nnameserver 1.1.1.1\noptions ndots:2 edns0\n"),
        (pod(dnsConfig={"nameservers": ["1.1.1.1", "10.96.0.10"], "searches": ["cluster.local", "b"],
                        "options": [{"name": "ndots", "value": "2"}]}),
         CLUSTER.replace(" .", " . b").replace("\noptions ndots:5", "\nnameserver 1.1.1.1\noptions ndots:2")),
    ],
)  # fmt: skip
def test_resolv_conf_by_policy(of: Pod, content: str) -> None:
    assert resolved(of) == (content, [])


def test_without_cluster_dns_the_node_answers_and_an_event_says_so() -> None:
    assert resolved(pod(), dns=()) == (NODE, ["MissingClusterDNS"])


def test_without_a_cluster_domain_no_search_is_added() -> None:
    assert resolved(pod(), domain="")[0].startswith("search corp.example .\nnameserver 10.96.0.10\n")


def test_excess_is_dropped_with_an_event() -> None:
    config = {"nameservers": [f"1.1.1.{number}" for number in range(5)], "searches": [f"d{n}" for n in range(40)]}
    content, warnings = resolved(pod(dnsPolicy="None", dnsConfig=config))
    assert content.count("nameserver ") == 3
    assert len(content.splitlines()[0].split()) == 33
    assert warnings == ["DNSConfigForming", "DNSConfigForming"]
    config = {"searches": ["x" * 250 + str(number) for number in range(10)]}
    content, warnings = resolved(pod(dnsPolicy="None", dnsConfig=config))
    assert len(content.splitlines()[0].removeprefix("search ")) <= 2048
    assert warnings == ["DNSConfigForming"]
