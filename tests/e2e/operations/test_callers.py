"""Who may ask a node, and whose certificates it takes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from pathlib import Path

import pytest
import yaml

from tests.e2e.operations.authority import Authority
from tests.e2e.operations.node import MARKS, Join, OwnNode
from tests.support.cluster import Cluster
from tests.support.node import free_port
from tests.support.waiting import eventually_now

pytestmark = MARKS


def test_who_may_ask_the_node(join: Join, cluster: Cluster, tmp_path: Path) -> None:
    node = join("wasm-door")
    healthz = free_port()
    node.start("--max-pods", "33", "--healthz-port", healthz)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(healthz), timeout=20)) as loopback:
        loopback.request("GET", "/healthz")  # a watchdog on this machine needs no rights, and gets nothing else
        assert loopback.getresponse().read() == b"ok"
    assert node.ask("/pods") == (401, "Unauthorized")
    assert node.ask("/nothing/there") == (401, "Unauthorized")
    stranger = Authority("stranger").pair(tmp_path / "stranger", "system:masters")
    with pytest.raises((OSError, http.client.HTTPException)):  # the handshake ends: docs/reference/kubelet-api.md
        node.ask("/pods", pair=stranger)
    # The API server's own certificate, by the rights that RBAC gives it.
    api_server = (cluster.kubelet_client_certificate, cluster.kubelet_client_key)
    status, text = node.ask("/configz", pair=api_server)
    found = json.loads(text)["kubeletconfig"]
    assert (status, found["maxPods"], found["port"], found["healthzPort"]) == (200, 33, int(node.port), int(healthz))
    assert node.ask("/healthz", pair=api_server) == (200, "ok")
    _tokens(node)


def _tokens(node: OwnNode) -> None:
    node.kubectl("create", "serviceaccount", "reader")
    other = node.kubectl("create", "token", "reader", "--audience=somebody-else").strip()
    assert node.ask("/pods", token=other) == (401, "Unauthorized")
    assert node.ask("/pods", token="no.such.token") == (401, "Unauthorized")
    token = node.kubectl("create", "token", "reader").strip()
    user = "system:serviceaccount:default:reader"
    assert node.ask("/pods", token=token) == (
        403, f"Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[pods proxy])\n",
    )  # fmt: skip
    # Refusals are remembered for half a minute, so each right is looked at by a path that was not asked before.
    node.kubectl("create", "clusterrole", "fine", "--verb=get", "--resource=nodes/healthz,nodes/configz")
    node.kubectl("create", "clusterrolebinding", "fine", "--clusterrole=fine", "--serviceaccount=default:reader")
    assert node.ask("/healthz", token=token)[0] == 200
    assert node.ask("/configz", token=token)[0] == 200
    assert node.ask("/containerLogs/default/a/b", token=token) == (
        403, f"Forbidden (user={user}, verb=get, resource=nodes, subresource(s)=[proxy])\n",
    )  # fmt: skip
    node.kubectl("delete", "clusterrolebinding", "fine")
    assert node.ask("/configz", token=token)[0] == 200  # a right is remembered for five minutes, as a kubelet's
    node.kubectl("create", "serviceaccount", "whole")
    node.kubectl("create", "clusterrole", "whole", "--verb=get", "--resource=nodes/proxy")
    node.kubectl("create", "clusterrolebinding", "whole", "--clusterrole=whole", "--serviceaccount=default:whole")
    token = node.kubectl("create", "token", "whole").strip()
    assert [node.ask(path, token=token)[0] for path in ("/pods", "/healthz", "/configz", "/nothing")] == [
        200, 200, 200, 404,
    ]  # fmt: skip
    assert node.ask("/metrics", token=token)[0] in (403, 404)  # nodes/metrics is a right of its own


def test_files_that_others_replace_are_taken_over(join: Join, cluster: Cluster, tmp_path: Path) -> None:
    node = join("wasm-files")
    # As kubeadm and cert-manager have it: a kubeconfig that names files, and authorities of their own for callers.
    signer, own = Authority("", cluster=cluster), Authority("callers")
    pair = signer.pair(tmp_path / "identity", f"system:node:{node.name}", "system:nodes")
    kubeconfig = yaml.safe_load((node.wasmlet.state / "kubeconfig").read_text())
    user = {"client-certificate": str(pair[0]), "client-key": str(pair[1])}
    kubeconfig["users"][0]["user"] = user
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    authorities = tmp_path / "callers.pem"
    authorities.write_bytes(own.pem)
    node.start("--kubeconfig", tmp_path / "kubeconfig", "--client-ca-file", authorities)
    admin = own.pair(tmp_path / "admin", "admin", "system:masters")
    assert node.ask("/healthz", pair=admin) == (200, "ok")
    before = _connections(node, cluster)
    assert before

    successor = Authority("successors")
    authorities.write_bytes(successor.pem)
    other = successor.pair(tmp_path / "other", "admin", "system:masters")
    eventually_now(lambda: _answers(node, other), node.log.read_text, seconds=30)
    assert not _answers(node, admin)

    signer.pair(tmp_path / "identity", f"system:node:{node.name}", "system:nodes")
    eventually_now(lambda: not (before & _connections(node, cluster)), node.log.read_text, seconds=30)
    assert "identity of the node taken over" in node.log.read_text()
    signer.pair(tmp_path / "identity", "system:node:somebody-else", "system:nodes")
    eventually_now(lambda: "for the node 'somebody-else'" in node.log.read_text(), node.log.read_text, seconds=30)
    node.run("still", "sleep")
    node.until_running("still")


def _answers(node: OwnNode, pair: tuple[Path, Path]) -> bool:
    try:
        return node.ask("/healthz", pair=pair) == (200, "ok")
    except (OSError, http.client.HTTPException):
        return False


def _connections(node: OwnNode, cluster: Cluster) -> set[str]:
    """The agent's sockets that lead to the API server, by their inodes."""
    assert node.process is not None
    port = f"{int(cluster.server.rpartition(':')[2]):04X}"
    own = set()
    for descriptor in Path(f"/proc/{node.process.pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:["):
            own.add(target[8:-1])
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2].endswith(f":{port}") and fields[3] == "01" and fields[9] in own:
            found.add(fields[9])
    return found
