"""A node that is not let in."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import yaml

from tests.e2e.conftest import Wasmlet
from tests.e2e.operations.authority import Authority
from tests.e2e.operations.node import MARKS
from tests.support.cluster import Cluster
from tests.support.processes import end_all
from tests.support.waiting import eventually_now

pytestmark = MARKS


def test_a_join_that_cannot_be_says_why(cluster: Cluster, tmp_path: Path) -> None:
    wasmlet = Wasmlet(tmp_path / "state", tmp_path)
    secret = "0123456789abcdef"

    def refused(*arguments: str, server: str = cluster.server, token: str = cluster.bootstrap_token) -> str:
        result = wasmlet("join", "--server", server, "--token", token, "--node-name", "wasm-no", *arguments, status=2)
        assert token.partition(".")[2] not in result.stderr.decode()
        return result.stderr.decode()

    assert "kubeadm token create --print-join-command" in refused()
    wrong = refused("--ca-hash", f"sha256:{'0' * 64}")
    assert f"has another hash than --ca-hash: {cluster.ca_hash}" in wrong
    assert "this is no bootstrap token" in refused("--ca-hash", cluster.ca_hash, token="abc.no-token-at-all")
    assert "is no API server" in refused("--ca-hash", cluster.ca_hash, server="http://127.0.0.1:1")
    for token, server, told in (
        (f"zzzzzz.{secret}", cluster.server, "is not signed with the token zzzzzz; the token may be unknown, or over"),
        (cluster.bootstrap_token, "https://127.0.0.1:1", "cannot connect to the API server 127.0.0.1:1"),
    ):
        with (tmp_path / "log").open("wb") as log:
            process = wasmlet.start(
                "join", "--server", server, "--token", token, "--ca-hash", cluster.ca_hash, output=log
            )
        try:  # it would wait for five minutes, as kubeadm does
            eventually_now(lambda told=told: told in (tmp_path / "log").read_text(), (tmp_path / "log").read_text)  # type: ignore[misc]
        finally:
            process.kill()
            process.communicate()
        assert token.partition(".")[2] not in (tmp_path / "log").read_text()
    assert not (tmp_path / "state" / "kubeconfig").exists()


def test_a_request_that_nobody_approves_and_one_that_is_denied(cluster: Cluster, tmp_path: Path) -> None:
    """By somebody whose requests the controller manager does not approve by itself."""
    pair = Authority("", cluster=cluster).pair(tmp_path / "asker", "asker")
    cluster.kubectl("create", "clusterrolebinding", "asker", "--clusterrole=system:node-bootstrapper", "--user=asker")
    document = yaml.safe_load(cluster.bootstrap_kubeconfig.read_text())
    document["users"][0]["user"] = {"client-certificate": str(pair[0]), "client-key": str(pair[1])}
    (tmp_path / "bootstrap").write_text(yaml.safe_dump(document))
    wasmlet, log = Wasmlet(tmp_path / "state", tmp_path), tmp_path / "log"
    command = (
        "node",
        "--bootstrap-kubeconfig",
        tmp_path / "bootstrap",
        "--node-name",
        "wasm-asks",
        "--network",
        "host",
    )

    def pending() -> list[str]:
        items = json.loads(cluster.kubectl("get", "csr", "-o", "json").stdout)["items"]
        return [
            each["metadata"]["name"]
            for each in items
            if each["spec"]["username"] == "asker" and not each.get("status", {}).get("conditions")
        ]

    try:
        with log.open("wb") as stream:
            process = wasmlet.start(*command, output=stream)
        (name,) = eventually_now(pending, log.read_text)
        assert process.poll() is None
        cluster.kubectl("certificate", "deny", name)
        process.communicate()
        assert process.returncode == 2
        assert f"the certificate request {name} was denied" in log.read_text()
        assert "hint: ask an administrator" in log.read_text()
        with log.open("wb") as stream:
            process = wasmlet.start(*command, output=stream)
        (again,) = eventually_now(pending, log.read_text)
        assert again != name  # another key: the same request would be denied for ever
        cluster.kubectl("certificate", "approve", again)
        nodes = ("get", "nodes", "-o", "name")
        eventually_now(lambda: b"node/wasm-asks" in cluster.kubectl(*nodes).stdout, log.read_text, seconds=40)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    finally:
        end_all(tmp_path)
    other = wasmlet("node", "--kubeconfig", tmp_path / "state" / "kubeconfig", "--node-name", "wasm-else", status=2)
    assert b"is for the node 'wasm-asks', not for 'wasm-else'" in other.stderr
    assert b"hint: run with --node-name wasm-asks" in other.stderr
    label = wasmlet("node", "--node-name", "wasm-asks", "--node-label", "node-restriction.kubernetes.io/a=b", status=2)
    assert b"a node may not give itself the label node-restriction.kubernetes.io/a" in label.stderr
