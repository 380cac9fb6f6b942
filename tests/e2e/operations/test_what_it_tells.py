"""What a node tells of itself, and what it asks of the API server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.e2e.operations.node import MARKS, Join, OwnNode
from tests.support.cluster import Cluster
from tests.support.guests import guest
from tests.support.waiting import eventually_now

pytestmark = MARKS


def test_what_a_node_tells_of_itself(join: Join, images: str, tmp_path: Path) -> None:
    node = join("wasm-tells")
    engine = tmp_path / "wasmlet-engine"
    installed = Path(sys.executable).parent / "wasmlet-engine"
    engine.write_bytes(installed.read_bytes())
    engine.chmod(0o755)
    node.environment["WASMLET_ENGINE"] = str(engine)
    node.start()
    node.run("seen", "hello", restartPolicy="Never")
    listed = eventually_now(lambda: _hello_images(node), node.log.read_text, seconds=30)
    (names,) = (each["names"] for each in listed)
    assert names[0].startswith(f"{images}/hello@sha256:")
    assert names[1:] == [f"{images}/hello:1"]
    assert listed[0]["sizeBytes"] >= guest("hello").stat().st_size
    engine.chmod(0o644)
    eventually_now(lambda: node.condition("Ready")["status"] == "False", node.log.read_text, seconds=30)
    assert node.condition("Ready")["message"] == f"the engine's program {engine} cannot be executed"
    engine.chmod(0o755)
    eventually_now(lambda: node.condition("Ready")["status"] == "True", node.log.read_text, seconds=30)


def _hello_images(node: OwnNode) -> list[Any]:
    return [each for each in node.get("node", node.name)["status"].get("images", []) if "/hello" in each["names"][0]]


KINDS = """
apiVersion: v1
kind: ConfigMap
metadata: { name: words }
data: { word: one }
---
apiVersion: v1
kind: Secret
metadata: { name: quiet }
stringData: { word: two }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: kinds }
spec:
  replicas: 3
  selector: { matchLabels: { app: kinds } }
  template:
    metadata: { labels: { app: kinds } }
    spec:
      nodeSelector: { kubernetes.io/hostname: wasm-kinds }
      tolerations: [{ operator: Exists }]
      containers:
        - name: main
          image: "SLEEP"
          envFrom: [{ configMapRef: { name: words } }, { secretRef: { name: quiet } }]
          volumeMounts: [{ name: all, mountPath: /all }]
      volumes:
        - name: all
          projected:
            sources:
              - configMap: { name: words }
              - secret: { name: quiet }
              - downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] }
              - serviceAccountToken: { path: token }
"""


def test_a_node_asks_for_nothing_that_it_may_not_have(join: Join, cluster: Cluster) -> None:
    """Last here: it looks at what every node of this cluster has asked (contract 13)."""
    node = join("wasm-kinds")
    node.start()
    node.kubectl("apply", "-f", "-", stdin=KINDS.replace("SLEEP", node.image("sleep")).encode())
    node.run("fails", "exit", restartPolicy="OnFailure", imagePullSecrets=[{"name": "quiet"}])
    node.apply("waits", "default", {
        "containers": [{
            "name": "main", "image": node.image("sleep"), "envFrom": [{"configMapRef": {"name": "missing"}}],
        }],
    })  # fmt: skip
    node.kubectl("rollout", "status", "deployment/kinds", "--timeout=40s")
    node.kubectl("patch", "configmap", "words", "-p", '{"data":{"word":"three"}}')
    node.kubectl("delete", "pod", "-l", "app=kinds", "--timeout=40s")
    node.kubectl("rollout", "status", "deployment/kinds", "--timeout=40s")
    node.kubectl("delete", "deployment", "kinds", "--timeout=40s")
    node.kubectl("delete", "pod", "fails", "waits", "--timeout=40s")
    eventually_now(lambda: not list((node.wasmlet.state / "pods").iterdir()), "no pod")
    audited = [json.loads(line) for line in (cluster.directory.parent / "audit.log").read_text().splitlines()]
    asked = {(each["verb"], each.get("objectRef", {}).get("resource")) for each in audited}
    assert {("create", "nodes"), ("update", "leases"), ("watch", "pods"), ("create", "serviceaccounts")} <= asked
    assert {each["user"]["username"] for each in audited} >= {f"system:node:{node.name}"}
    refused = [
        (each["verb"], each["requestURI"], each["responseStatus"].get("message", ""))
        for each in audited
        if each.get("responseStatus", {}).get("code") == 403
    ]
    # A busy API server's admission knows of a binding later than those who watch; the token is asked for again.
    behind = "node requested token bound to a pod scheduled on a different node"
    assert [each for each in refused if behind not in each[2]] == []
