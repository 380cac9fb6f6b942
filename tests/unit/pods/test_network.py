"""A pod's way into the network."""

from pathlib import Path

import pytest

from wasmlet.kube.types import HostAlias, ObjectMeta, Pod, PodSpec
from wasmlet.pods import network


def pod(*, on_host: bool = False) -> Pod:
    aliases = [HostAlias(ip="10.0.0.9", hostnames=["db"])]
    return Pod(metadata=ObjectMeta(name="web"), spec=PodSpec(host_network=on_host, host_aliases=aliases))


def test_a_pod_has_its_own_hosts_file_and_the_nodes_name_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 10.0.0.2\nsearch corp.test\n")
    (tmp_path / "hosts").write_text("10.0.0.3 printer\n")
    monkeypatch.setattr(network, "RESOLV_CONF", tmp_path / "resolv.conf")
    monkeypatch.setattr(network, "HOSTS", tmp_path / "hosts")
    way = network.way(pod(), ["10.244.0.5"])
    assert (way.addresses, way.host) == (["10.244.0.5"], False)
    assert way.resolv_conf == "search corp.test\nnameserver 10.0.0.2\n"
    assert "10.244.0.5\tweb\n" in way.hosts
    assert "10.0.0.9\tdb\n" in way.hosts
    assert "printer" not in way.hosts
    on_host = network.way(pod(on_host=True), ["192.168.1.2"])
    assert on_host.host
    assert "10.0.0.3 printer\n" in on_host.hosts
    assert "10.0.0.9\tdb\n" in on_host.hosts


def test_without_the_nodes_files_there_are_no_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "RESOLV_CONF", tmp_path / "none")
    assert network.way(pod(), ["10.244.0.5"]).resolv_conf == ""
