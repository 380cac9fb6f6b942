"""The control plane that other tests run against is what it says: real, guarded, several at once, gone at the end."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.cluster import Cluster, program, running_cluster
from tests.support.waiting import eventually_now

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("devcluster"),
    # Fixtures may build the program first.
    pytest.mark.timeout(180, func_only=True),
]

NODE = "lonely"
STOP_SECONDS = 20.0


@pytest.fixture(scope="module", autouse=True)
def built() -> Path:
    return program()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def test_is_ready_in_time_and_answers_kubectl(cluster: Cluster) -> None:
    print(f"ready after {cluster.ready_seconds:.1f} s")
    # Ten seconds on a free machine; tests share it.
    assert cluster.ready_seconds < 60
    names = cluster.kubectl("get", "namespaces", "-o", "name").stdout.decode().split()
    assert {"namespace/default", "namespace/kube-system", "namespace/kube-node-lease"} <= set(names)
    assert cluster.kubectl("get", "nodes", "-o", "json").stdout
    assert _version(cluster)["gitVersion"] == cluster.kubernetes_version


def test_every_file_is_the_owners(cluster: Cluster) -> None:
    made = [cluster.directory / "cluster.json", *cluster.directory.glob("*.kubeconfig")]
    made += [path for name in ("pki", "etcd", "logs") for path in (cluster.directory / name).rglob("*")]
    assert len(made) > 30
    assert [path for path in made if path.stat().st_mode & 0o077] == []
    assert cluster.bootstrap_token in (cluster.directory / "cluster.json").read_text()


def test_anonymous_is_refused(cluster: Cluster) -> None:
    for path in ("/api/v1/nodes", "/api/v1/namespaces/kube-system/secrets", "/metrics"):
        assert _get(cluster, path)[0] == 403
    assert _get(cluster, "/api/v1/nodes", token="aaaaaa.aaaaaaaaaaaaaaaa")[0] == 401


def test_cluster_info_is_public_and_signed_with_the_token(cluster: Cluster) -> None:
    def signed() -> bool:
        status, body = _get(cluster, "/api/v1/namespaces/kube-public/configmaps/cluster-info")
        assert status == 200
        return f"jws-kubeconfig-{cluster.bootstrap_token[:6]}" in json.loads(body)["data"]

    eventually_now(signed, "the controller bootstrapsigner")


def test_token_gets_a_certificate_that_may_no_more_than_a_node(cluster: Cluster, tmp_path: Path) -> None:
    node = _join(cluster, tmp_path)
    whoami = json.loads(_as_node(cluster, node, "auth", "whoami", "-o", "json").stdout)["status"]["userInfo"]
    assert whoami["username"] == f"system:node:{NODE}"
    assert "system:nodes" in whoami["groups"]

    def refused(*arguments: str, stdin: bytes = b"") -> str:
        result = _as_node(cluster, node, *arguments, status=1, stdin=stdin)
        assert b"(Forbidden)" in result.stderr, result.stderr
        return result.stderr.decode()

    cluster.kubectl("create", "secret", "generic", "unrelated", "--from-literal=key=value")
    assert "no relationship found" in refused("get", "secret", "unrelated")
    refused("get", "secrets", "--all-namespaces")
    refused("get", "pods", "--all-namespaces")
    # NodeRestriction, not the authorizer: a node may create nodes, but only itself.
    assert "is not allowed to" in refused("create", "-f", "-", stdin=_node("another"))
    _as_node(cluster, node, "create", "-f", "-", stdin=_node(NODE))
    eventually_now(lambda: _pod_cidr(cluster), "the controller nodeipam")
    assert _pod_cidr(cluster).startswith("10.244.")


def test_two_clusters_at_once_and_one_that_is_older(cluster: Cluster, tmp_path: Path) -> None:
    with running_cluster(tmp_path / "older", emulated_version="1.34") as older:
        print(f"the second ready after {older.ready_seconds:.1f} s")
        assert older.server != cluster.server
        assert older.ca_hash != cluster.ca_hash
        # gitVersion stays the binary's: Kubernetes tells the version that it acts as beside it.
        assert (_version(older)["emulationMajor"], _version(older)["emulationMinor"]) == ("1", "34")
        assert _version(cluster)["emulationMinor"] == _version(cluster)["minor"] != "34"
        for component in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
            assert "--emulated-version=1.34" in _arguments(older.processes[component])
        older.kubectl("create", "namespace", "only-here")
        cluster.kubectl("get", "namespace", "only-here", status=1)
        # One cluster's credentials are nothing to the other.
        assert older.kubectl("--server", cluster.server, "get", "nodes", status=None).returncode != 0
    assert not older.is_running()
    assert cluster.is_running()


def test_sigterm_leaves_no_process_and_the_next_run_goes_on(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as first:
        first.kubectl("create", "namespace", "kept")
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(STOP_SECONDS) == 0
        assert not first.is_running()
    with running_cluster(tmp_path) as second:
        assert second.server == first.server
        assert second.bootstrap_token == first.bootstrap_token
        second.kubectl("get", "namespace", "kept")
        # The end of its standard input ends it too.
        assert second.process.stdin is not None
        second.process.stdin.close()
        assert second.process.wait(STOP_SECONDS) == 0
        assert not second.is_running()


def test_sigkill_leaves_no_process(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        assert len(cluster.processes) == 4
        cluster.process.kill()
        cluster.process.wait()
        eventually_now(lambda: not cluster.is_running(), cluster.processes, seconds=5)


@pytest.mark.parametrize("name", ["apiserver", "etcd_client"])
def test_taken_port_is_told_apart(tmp_path: Path, name: str) -> None:
    with running_cluster(tmp_path):
        pass
    port = json.loads((tmp_path / "cluster.json").read_text())["ports"][name]
    # A new cluster would take other ports; one that goes on has promised these.
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(pytest.fail.Exception, match="a port was taken"),
        running_cluster(tmp_path),
    ):
        pass


def test_second_cluster_in_a_directory_is_refused(cluster: Cluster) -> None:
    command: list[str | Path] = [program(), "up", "--directory", cluster.directory]
    result = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert result.returncode == 1
    assert b"a cluster runs in" in result.stderr
    cluster.kubectl("get", "nodes")


def test_end_of_a_component_ends_all_and_is_told(tmp_path: Path) -> None:
    extra = ["kube-scheduler=--no-such-flag"]
    with pytest.raises(pytest.fail.Exception, match="no-such-flag"), running_cluster(tmp_path, extra=extra):
        pass


def _version(cluster: Cluster) -> dict[str, str]:
    found: dict[str, str] = json.loads(cluster.kubectl("get", "--raw", "/version").stdout)
    return found


def _arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def _get(cluster: Cluster, path: str, *, token: str | None = None) -> tuple[int, bytes]:
    address = urlsplit(cluster.server)
    assert address.hostname is not None
    context = ssl.create_default_context(cafile=cluster.ca_file)
    connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=10, context=context)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _join(cluster: Cluster, directory: Path) -> Path:
    """A node's kubeconfig, by the way a kubelet gets it: token, request, approval, certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
        x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{NODE}"),
    ]
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject)).sign(key, hashes.SHA256())
    manifest = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "node-csr-lonely"},
        "spec": {
            "request": base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode(),
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"],
        },
    }
    bootstrap = cluster.bootstrap_kubeconfig
    cluster.kubectl("create", "-f", "-", kubeconfig=bootstrap, stdin=json.dumps(manifest).encode())

    def status() -> dict[str, Any]:
        shown = cluster.kubectl("get", "csr", "node-csr-lonely", "-o", "json", kubeconfig=bootstrap).stdout
        found: dict[str, Any] = json.loads(shown)["status"]
        return found

    eventually_now(lambda: "certificate" in status(), "the controllers csrapproving and csrsigning")
    assert [(each["type"], each["reason"]) for each in status()["conditions"]] == [("Approved", "AutoApproved")]
    (directory / "node.crt").write_bytes(base64.b64decode(status()["certificate"]))
    (directory / "node.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory


def _as_node(
    cluster: Cluster, node: Path, *arguments: str | Path, status: int = 0, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return cluster.kubectl(
        "--server", cluster.server, "--certificate-authority", cluster.ca_file,
        "--client-certificate", node / "node.crt", "--client-key", node / "node.key",
        *arguments, kubeconfig=Path("/dev/null"), status=status, stdin=stdin,
    )  # fmt: skip


def _node(name: str) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).encode()


def _pod_cidr(cluster: Cluster) -> str:
    return cluster.kubectl("get", "node", NODE, "-o", "jsonpath={.spec.podCIDR}").stdout.decode()
