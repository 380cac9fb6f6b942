"""A pod's names: hostname, /etc/hosts, /etc/resolv.conf. Pure functions after the kubelet's (contract 6.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wasmlet.base.errors import UserError
from wasmlet.kube.types import DNSConfig, DNSOption, HostAlias, Pod

__all__ = ["Names", "ResolvConf", "hosts_file", "node_hosts_file", "pod_names", "resolv_conf"]

MAXIMUM_HOSTNAME = 63
MAXIMUM_FQDN = 64
"""What Linux takes as a hostname."""

MAXIMUM_NAMESERVERS = 3
MAXIMUM_SEARCHES = 32
MAXIMUM_SEARCH_CHARACTERS = 2048

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)

LOCAL = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


@dataclass(frozen=True)
class Names:
    """What a pod is called.

    Attributes:
        hostname: What HOSTNAME and /etc/hostname say; the full name with setHostnameAsFQDN.
        short: The first part, for /etc/hosts.
        domain: The rest, "" without a subdomain.
    """

    hostname: str
    short: str
    domain: str


@dataclass(frozen=True)
class ResolvConf:
    """resolv.conf, and what was wrong: (event reason, message) pairs for Warning events on the pod."""

    content: str
    warnings: tuple[tuple[str, str], ...] = ()


def pod_names(pod: Pod, *, cluster_domain: str, node_hostname: str = "") -> Names:
    """What a pod is called: hostnameOverride (never with a domain), else hostname, else its name, cut to 63 characters.

    Args:
        node_hostname: What a hostNetwork pod is called.

    Raises:
        UserError: A name is no DNS label, or the full name is longer than 64: the pod does not start.
    """
    spec, metadata = pod.spec, pod.metadata
    if spec.hostname_override is not None:
        return Names(spec.hostname_override, spec.hostname_override, "")
    for what, name in (("Hostname", spec.hostname), ("Subdomain", spec.subdomain)):
        if name and (len(name) > MAXIMUM_HOSTNAME or not LABEL.fullmatch(name)):
            raise UserError(f'pod {what} "{name}" is not a valid DNS label')
    short = spec.hostname or metadata.name
    if len(short) > MAXIMUM_HOSTNAME:
        short = short[:MAXIMUM_HOSTNAME].rstrip("-.")
    if not short:
        raise UserError(f'hostname for pod "{metadata.name}" was invalid: ""')
    domain = f"{spec.subdomain}.{metadata.namespace}.svc.{cluster_domain}" if spec.subdomain else ""
    if spec.host_network and node_hostname:
        return Names(node_hostname, short, domain)
    if not (spec.set_hostname_as_fqdn and domain):
        return Names(short, short, domain)
    full = f"{short}.{domain}"
    if len(full) > MAXIMUM_FQDN:
        raise UserError(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long "
            f"({MAXIMUM_FQDN} characters is the max, {len(full)} characters requested)"
        )
    return Names(full, short, domain)


def hosts_file(names: Names, pod_ips: Iterable[str], aliases: Sequence[HostAlias] = ()) -> str:
    """/etc/hosts of a pod with its own address."""
    called = f"{names.short}.{names.domain}\t{names.short}" if names.domain else names.short
    own = "".join(f"{address}\t{called}\n" for address in pod_ips)
    return "# Kubernetes-managed hosts file.\n" + LOCAL + own + _alias_lines(aliases)


def node_hosts_file(node_file: str, aliases: Sequence[HostAlias] = ()) -> str:
    """/etc/hosts of a hostNetwork pod: the node's own."""
    return "# Kubernetes-managed hosts file (host network).\n" + node_file + _alias_lines(aliases)


def resolv_conf(pod: Pod, *, cluster_dns: Sequence[str], cluster_domain: str, node_file: str) -> ResolvConf:
    """resolv.conf after dnsPolicy and dnsConfig.

    Args:
        cluster_dns: Addresses of the cluster's DNS; none makes ClusterFirst fall back to Default, with a warning.
        cluster_domain: Such as cluster.local; "" adds no search domains.
        node_file: Content of the node's resolv.conf.
    """
    warnings: list[tuple[str, str]] = []
    servers, searches, options = _parsed(node_file)
    policy = pod.spec.dns_policy
    if policy == "None":
        servers, searches, options = [], [], []
    elif policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.spec.host_network):
        if cluster_dns:
            servers, options = list(cluster_dns), ["ndots:5"]
            searches = _cluster_searches(pod.metadata.namespace, cluster_domain) + searches
        else:
            warnings.append(("MissingClusterDNS", _missing_cluster_dns(pod)))
    configured = pod.spec.dns_config or DNSConfig()
    servers = _unique([*servers, *configured.nameservers])
    searches = _unique([*searches, *configured.searches])
    servers, searches, exceeded = _within_limits(servers, searches)
    warnings += [("DNSConfigForming", message) for message in exceeded]
    return ResolvConf(_rendered(servers, searches, _merged(options, configured.options)), tuple(warnings))


def _alias_lines(aliases: Sequence[HostAlias]) -> str:
    if not aliases:
        return ""
    lines = (f"{alias.ip}\t" + "\t".join(alias.hostnames) + "\n" for alias in aliases)
    return "\n# Entries added by HostAliases.\n" + "".join(lines)


def _parsed(node_file: str) -> tuple[list[str], list[str], list[str]]:
    """Name servers, search domains (the last such line counts) and options of a resolv.conf."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in node_file.splitlines():
        match line.split("#", 1)[0].split():
            case ["nameserver", address, *_]:
                servers.append(address)
            case ["search", *domains]:
                searches = [domain if domain == "." else domain.removesuffix(".") for domain in domains]
            case ["options", *words]:
                options = words
    return servers, searches, options


def _cluster_searches(namespace: str, cluster_domain: str) -> list[str]:
    if not cluster_domain:
        return []
    return [f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain]


def _missing_cluster_dns(pod: Pod) -> str:
    metadata = pod.metadata
    return (
        f'pod: "{metadata.name}_{metadata.namespace}({metadata.uid})". kubelet does not have ClusterDNS IP configured '
        'and cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy.'
    )


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _merged(options: Sequence[str], own: Sequence[DNSOption]) -> list[str]:
    """Options of the pod replace those of the same name."""
    merged = {name: value for name, _, value in (option.partition(":") for option in options)}
    merged |= {option.name: option.value or "" for option in own}
    return [f"{name}:{value}" if value else name for name, value in merged.items()]


def _within_limits(servers: list[str], searches: list[str]) -> tuple[list[str], list[str], list[str]]:
    """What fits, and the messages about what does not."""
    messages = []
    if len(servers) > MAXIMUM_NAMESERVERS:
        servers = servers[:MAXIMUM_NAMESERVERS]
        messages.append(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "
            + " ".join(servers)
        )
    kept = searches[:MAXIMUM_SEARCHES]
    while len(" ".join(kept)) > MAXIMUM_SEARCH_CHARACTERS:
        kept.pop()
    if len(kept) < len(searches):
        messages.append(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "
            + " ".join(kept)
        )
    return servers, kept, messages


def _rendered(servers: Sequence[str], searches: Sequence[str], options: Sequence[str]) -> str:
    """As containerd writes it."""
    lines = [f"search {' '.join(searches)}"] if searches else []
    lines += [f"nameserver {address}" for address in servers]
    lines += [f"options {' '.join(options)}"] if options else []
    return "".join(line + "\n" for line in lines)
