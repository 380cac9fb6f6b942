"""What an operator sees of a node: its end with the machine, its callers, its files, what it asks of the API server."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.e2e.conftest import Wasmlet
from tests.support.cluster import Cluster, running_cluster
from tests.support.cosign import Signer, push
from tests.support.guests import guest
from tests.support.node import free_port
from tests.support.processes import end_all
from tests.support.programs import script
from tests.support.registry import PASSWORD, USERNAME, docker_registry
from tests.support.waiting import eventually_now

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("node-operations"),
    pytest.mark.timeout(180, func_only=True),
]

AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - { level: Metadata, userGroups: ["system:nodes"] }
  - { level: None }
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for all tests here, which writes down what nodes ask."""
    place = tmp_path_factory.mktemp("operations")
    (place / "audit.yaml").write_text(AUDIT_POLICY)
    extra = [
        f"kube-apiserver=--audit-policy-file={place / 'audit.yaml'}",
        f"kube-apiserver=--audit-log-path={place / 'audit.log'}",
    ]
    with running_cluster(place / "cluster", extra=extra) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry's address; the guests in it are pushed by `Node.image`."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry.address


class Node:
    """A node of the test's own: its state, its process, and what its flags say."""

    def __init__(self, folder: Path, cluster: Cluster, images: str, name: str) -> None:
        folder.mkdir()
        self.cluster = cluster
        self.images = images
        self.name = name
        self.wasmlet = Wasmlet(folder / "state", folder)
        self.environment = self.wasmlet.environment
        self.port = free_port()
        self.log = folder / "node.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.wasmlet(
            "join", "--server", cluster.server, "--token", cluster.bootstrap_token, "--ca-hash", cluster.ca_hash,
            "--node-name", name,
        )  # fmt: skip

    def start(self, *flags: str | Path) -> None:
        """Start the agent, and wait until it answers and the cluster finds it ready."""
        before = self._starts()
        with self.log.open("ab") as log:
            self.process = self.wasmlet.start(
                "node", "--node-name", self.name, "--port", self.port, "--healthz-port", "0",
                "--network", "host", *flags, output=log,
            )  # fmt: skip
        # The cluster may still believe what the agent before this one said.
        eventually_now(lambda: self._starts() > before, self.log.read_text, seconds=40)
        eventually_now(lambda: self.condition("Ready")["status"] == "True", self.log.read_text, seconds=40)

    def _starts(self) -> int:
        return self.log.read_text().count("kubelet API started") if self.log.exists() else 0

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> int:
        """Signal the agent, if there is one; its exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(with_signal)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        return process.wait(60)

    def image(self, name: str) -> str:
        """A guest as an image."""
        reference = f"{self.images}/{name}:1"
        self.wasmlet("push", guest(name), reference)
        return reference

    def kubectl(self, *arguments: str | Path, stdin: str = "", status: int | None = 0) -> str:
        """A stock kubectl by the administrator."""
        return self.cluster.kubectl(*arguments, stdin=stdin.encode(), status=status).stdout.decode()

    def get(self, *arguments: str) -> Any:
        """What kubectl gets, None when there is nothing."""
        text = self.kubectl("get", *arguments, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text else None

    def condition(self, kind: str) -> dict[str, str]:
        """One of the Node's conditions."""
        node = self.get("node", self.name)
        found = [each for each in node["status"]["conditions"] if each["type"] == kind] if node else []
        return found[0] if found else {"status": "", "message": ""}

    def run(self, name: str, program: str, *, namespace: str = "default", **spec: Any) -> None:
        """A pod on this node that runs a guest."""
        self.apply(name, namespace, {"containers": [{"name": "main", "image": self.image(program)}], **spec})

    def apply(self, name: str, namespace: str, spec: dict[str, Any]) -> None:
        """A pod on this node."""
        bound = {"nodeName": self.name, "tolerations": [{"operator": "Exists"}], **spec}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": bound}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(pod))

    def pod(self, name: str, namespace: str = "default") -> Any:
        return self.get("pod", name, "-n", namespace)

    def until_running(self, name: str, namespace: str = "default") -> Any:
        """The pod, once it runs."""

        def found() -> Any:
            pod = self.pod(name, namespace)
            return pod if pod["status"].get("phase") == "Running" else None

        return eventually_now(found, lambda: self.pod(name, namespace), seconds=40)

    # --- the kubelet API ----------------------------------------------------------------------------------------------

    def ask(self, path: str, *, token: str = "", pair: tuple[Path, Path] | None = None) -> tuple[int, str]:
        """GET from the node's own port."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if pair is not None:
            context.load_cert_chain(*pair)
        addresses = self.get("node", self.name)["status"]["addresses"]
        connection = http.client.HTTPSConnection(addresses[0]["address"], int(self.port), context=context, timeout=20)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


Join = Callable[[str], Node]


@pytest.fixture
def join(tmp_path: Path, cluster: Cluster, images: str) -> Iterator[Join]:
    """Makes nodes, of which nothing outlives the test."""
    nodes: list[Node] = []

    def made(name: str) -> Node:
        nodes.append(Node(tmp_path / name, cluster, images, name))
        return nodes[-1]

    yield made
    for node in nodes:
        node.end(signal.SIGKILL)
        end_all(node.wasmlet.state)


def stub_systemctl(node: Node, folder: Path, answer: str) -> None:
    """A `systemctl` that says how the machine is; the agent finds it first."""
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "systemctl"
    program.write_text(f'#!/bin/sh\n[ "$*" = is-system-running ] || exit 9\necho {answer}\nexit 1\n')
    program.chmod(0o755)
    if not node.environment["PATH"].startswith(str(folder)):
        node.environment["PATH"] = f"{folder / 'bin'}:{node.environment['PATH']}"


def test_pods_end_with_the_machine_and_not_with_the_agent(join: Join, tmp_path: Path) -> None:
    node = join("wasm-down")
    stub_systemctl(node, tmp_path, "running")
    flags = ("--shutdown-grace-seconds", "20", "--shutdown-critical-seconds", "5")
    node.start(*flags)
    node.run("low", "sleep")
    node.run("high", "sleep", namespace="kube-system", priorityClassName="system-node-critical")
    node.run("done", "hello", restartPolicy="Never")
    before = [node.until_running("low"), node.until_running("high", "kube-system")]
    eventually_now(lambda: node.pod("done")["status"].get("phase") == "Succeeded", "a pod that has done its work")
    assert node.end() == 0  # the agent alone: an upgrade
    node.start(*flags)
    after = [node.until_running("low"), node.until_running("high", "kube-system")]
    assert [_container(each)["containerID"] for each in after] == [_container(each)["containerID"] for each in before]
    assert [_container(each)["restartCount"] for each in after] == [0, 0]
    stub_systemctl(node, tmp_path, "stopping")
    assert node.end() == 0
    low, high, done = node.pod("low"), node.pod("high", "kube-system"), node.pod("done")
    for pod in (low, high):
        status = pod["status"]
        assert (status["phase"], status["reason"]) == ("Failed", "Terminated")
        assert status["message"] == "Pod was terminated in response to imminent node shutdown."
        (target,) = [each for each in status["conditions"] if each["type"] == "DisruptionTarget"]
        assert (target["status"], target["reason"]) == ("True", "TerminationByKubelet")
        assert _container(pod)["state"]["terminated"]["exitCode"] == 143
    ends = [_container(each)["state"]["terminated"]["finishedAt"] for each in (low, high)]
    assert ends == sorted(ends)
    assert (done["status"]["phase"], done["status"].get("reason")) == ("Succeeded", None)
    ready = node.condition("Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == (
        "False", "KubeletNotReady", "node is shutting down",
    )  # fmt: skip
    events = node.get("events", "-n", "default", f"--field-selector=involvedObject.name={node.name},reason=Shutdown")
    assert len(events["items"]) == 1


def _container(pod: Any) -> Any:
    return pod["status"]["containerStatuses"][0]


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


def _tokens(node: Node) -> None:
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


class Authority:
    """Signs certificates of callers and of nodes."""

    def __init__(self, name: str, *, cluster: Cluster | None = None) -> None:
        if cluster is not None:
            self.key: Any = serialization.load_pem_private_key(cluster.ca_key_file.read_bytes(), None)
            self.name = x509.load_pem_x509_certificate(cluster.ca_file.read_bytes()).subject
            return
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _subject(name)

    @property
    def pem(self) -> bytes:
        """Its own certificate."""
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        return self._signed(self.name, self.key.public_key(), constraints)

    def pair(self, stem: Path, name: str, group: str = "") -> tuple[Path, Path]:
        """Files of a client's certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        paths = stem.with_suffix(".crt"), stem.with_suffix(".key")
        for path, content in zip(paths, (
            self._signed(_subject(name, group), key.public_key(), x509.ExtendedKeyUsage([_CLIENT])),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        ), strict=True):  # fmt: skip
            beside = path.with_name(f"{path.name}.new")
            beside.write_bytes(content)
            beside.rename(path)
        return paths

    def _signed(self, subject: x509.Name, key: Any, extension: x509.ExtensionType) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            self.name, subject, key, x509.random_serial_number(),
            now - timedelta(minutes=1), now + timedelta(hours=1),
        )  # fmt: skip
        built = builder.add_extension(extension, critical=False).sign(self.key, hashes.SHA256())
        return built.public_bytes(serialization.Encoding.PEM)


_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


def _subject(name: str, group: str = "") -> x509.Name:
    names = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*names, x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


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


def _answers(node: Node, pair: tuple[Path, Path]) -> bool:
    try:
        return node.ask("/healthz", pair=pair) == (200, "ok")
    except (OSError, http.client.HTTPException):
        return False


def _connections(node: Node, cluster: Cluster) -> set[str]:
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


def test_only_images_that_the_policy_allows_run(join: Join, images: str, tmp_path: Path) -> None:
    node, signer = join("wasm-trusts"), Signer()
    (tmp_path / "team.pub").write_text(signer.pem)
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\ndefault: never\nrules: [{{images: '{images}/*', allow: {{keys: [team.pub]}}}}]\n")
    node.start("--image-policy", policy)
    node.run("signed-later", "sleep")

    def waiting() -> Any:
        statuses = node.pod("signed-later")["status"].get("containerStatuses", [{}])
        return statuses[0].get("state", {}).get("waiting", {})

    eventually_now(lambda: waiting().get("reason") == "SignatureValidationFailed", waiting, seconds=30)
    message = waiting()["message"]
    name = f"{images}/sleep:1"
    assert message.startswith(f"image pull failed for {name} because the signature validation failed: it is not signed")
    assert f"rule {images}/* of the image policy {policy} wants one; sign it (cosign sign --key KEY " in message
    events = ("get", "events", "--field-selector", "involvedObject.name=signed-later", "-o", "jsonpath={..message}")
    eventually_now(lambda: f'Failed to pull image "{name}": {message}' in node.kubectl(*events), waiting)
    eventually_now(lambda: "Error: SignatureValidationFailed" in node.kubectl(*events), waiting)
    digest = node.wasmlet("push", guest("sleep"), name).stdout.decode().strip()
    push(images, "sleep", signer.tagged(digest))
    node.until_running("signed-later")  # after the back-off


def _hello_images(node: Node) -> list[Any]:
    return [each for each in node.get("node", node.name)["status"].get("images", []) if "/hello" in each["names"][0]]


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


CLOUD = """
import base64, json, sys
asked = json.load(sys.stdin)
claims = asked["serviceAccountToken"].split(".")[1]
claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
assert claims["aud"] == ["cloud"], claims
assert claims["kubernetes.io"]["serviceaccount"]["name"] == "puller", claims
assert asked["serviceAccountAnnotations"] == {{"role": "reader"}}, asked
print(json.dumps({{
    "kind": "CredentialProviderResponse", "apiVersion": asked["apiVersion"], "cacheKeyType": "Image",
    "auth": {{{address!r}: {{"username": {username!r}, "password": {password!r}}}}},
}}))
"""


def test_a_private_image_is_for_pods_that_may_pull_it(join: Join, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry", login=True) as registry:
        node, image = join("wasm-private"), f"{registry.address}/private/sleep:1"
        logins = {"auths": {registry.address: {"username": USERNAME, "password": PASSWORD}}}
        (tmp_path / "config.json").write_text(json.dumps(logins))
        node.environment["DOCKER_CONFIG"] = str(tmp_path)
        node.wasmlet("push", guest("sleep"), image)
        (tmp_path / "config.json").unlink()
        script(tmp_path, "cloud", CLOUD.format(address=registry.address, username=USERNAME, password=PASSWORD))
        (tmp_path / "providers.yaml").write_text(yaml.safe_dump({
            "kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1",
            "providers": [{
                "name": "cloud", "matchImages": [registry.address], "defaultCacheDuration": "1m",
                "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
                "tokenAttributes": {
                    "serviceAccountTokenAudience": "cloud", "cacheType": "ServiceAccount",
                    "requireServiceAccount": True, "requiredServiceAccountAnnotationKeys": ["role"],
                },
            }],
        }))  # fmt: skip
        settings = tmp_path / "config.toml"
        settings.write_text(
            f'image-credential-provider-config = "{tmp_path}/providers.yaml"\n'
            f'image-credential-provider-bin-dir = "{tmp_path}"\n'
        )
        node.environment["WASMLET_CONFIG"] = str(settings)
        node.start()
        node.kubectl("create", "secret", "docker-registry", "regcred", f"--docker-server={registry.address}",
                     f"--docker-username={USERNAME}", f"--docker-password={PASSWORD}")  # fmt: skip
        main = {"containers": [{"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}]}
        node.apply("owner", "default", {**main, "imagePullSecrets": [{"name": "regcred"}]})
        node.until_running("owner")
        node.kubectl("create", "namespace", "strangers")
        node.apply("stranger", "strangers", main)
        reasons = ("ErrImagePull", "ImagePullBackOff")
        eventually_now(
            lambda: _container(node.pod("stranger", "strangers"))["state"]["waiting"]["reason"] in reasons,
            lambda: node.pod("stranger", "strangers"), seconds=40,
        )  # fmt: skip
        node.kubectl("create", "serviceaccount", "puller", "-n", "strangers")
        node.kubectl("annotate", "serviceaccount", "puller", "role=reader", "-n", "strangers")
        # NodeRestriction lets a node ask for no audience that is neither in the pod nor granted.
        node.kubectl("apply", "-f", "-", stdin=AUDIENCE)
        node.apply("puller", "strangers", {**main, "serviceAccountName": "puller"})
        node.until_running("puller", "strangers")
        node.kubectl("delete", "pod", "owner", "--now")
        node.kubectl("delete", "pod", "--all", "-n", "strangers", "--now")


AUDIENCE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: cloud-audience }
rules: [{ apiGroups: [""], resources: [cloud], verbs: [request-serviceaccounts-token-audience] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: cloud-audience }
subjects: [{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:nodes" }]
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cloud-audience }
"""


def test_a_node_whose_disk_is_full_loses_unused_images_and_says_what_does_not_help(join: Join, tmp_path: Path) -> None:
    node = join("wasm-full")
    used, unused = node.image("sleep"), node.image("hello")
    node.wasmlet("pull", unused)
    node.start()
    node.run("user", "sleep")
    node.until_running("user")
    node.end()
    settings = tmp_path / "config.toml"
    settings.write_text(
        "image-gc-high-threshold-percent = 1\nimage-gc-low-threshold-percent = 0\nimage-minimum-gc-age-seconds = 0\n"
    )
    node.environment["WASMLET_CONFIG"] = str(settings)
    node.start()

    def stored() -> list[str]:
        return [each["reference"] for each in json.loads(node.wasmlet("images", "-o", "json").stdout)]

    eventually_now(lambda: stored() == [used], stored)
    selector = f"--field-selector=involvedObject.name={node.name},reason=FreeDiskSpaceFailed"
    (event,) = eventually_now(
        lambda: node.get("events", "-n", "default", selector)["items"], node.log.read_text, seconds=20
    )
    assert event["type"] == "Warning"
    assert "used). Failed to free sufficient space by deleting unused images (freed " in event["message"]
    node.kubectl("delete", "pod", "user", "--now")


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
    node.kubectl("apply", "-f", "-", stdin=KINDS.replace("SLEEP", node.image("sleep")))
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
