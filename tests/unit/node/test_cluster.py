"""A node of a real cluster, from its token on, with no more rights than the Node authorizer gives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster, program, running_cluster
from tests.support.waiting import eventually
from wasmlet.base.clock import from_text
from wasmlet.base.errors import ConflictError, UserError
from wasmlet.kube.client import Client
from wasmlet.kube.events import Recorder
from wasmlet.node import bootstrap, keys
from wasmlet.node.bootstrap import Joining
from wasmlet.node.certificates import ClientCertificate
from wasmlet.node.composition import Node
from wasmlet.node.report import Sources
from wasmlet.node.settings import Settings, parse_taint

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("devcluster"),
    pytest.mark.timeout(180, func_only=True),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    program()
    # kubeadm allows privileged pods; the DaemonSet is one.
    extra = ["kube-apiserver=--allow-privileged"]
    with running_cluster(tmp_path_factory.mktemp("cluster"), extra=extra) as cluster:
        yield cluster


def joining(directory: Path, name: str, **changes: Any) -> Joining:
    return Joining(node=name, kubeconfig=directory / "kubeconfig", pki_directory=directory / "pki", **changes)


async def join(cluster: Cluster, how: Joining) -> Client:
    access = await bootstrap.join(
        how, server=cluster.server, token=cluster.bootstrap_token, ca_hashes=[cluster.ca_hash]
    )
    return Client(access)


@dataclass
class Running:
    """A node that runs."""

    cluster: Cluster
    node: Node
    client: Client
    shown: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def get(self, *arguments: str) -> Any:
        result = await asyncio.to_thread(self.cluster.kubectl, "get", *arguments, "-o", "json")
        return json.loads(result.stdout)

    async def until(self, *arguments: str, holds: Any, seconds: float = 30.0) -> Any:
        """What kubectl gets, once it `holds`."""
        async with asyncio.timeout(seconds):
            while not holds(found := await self.get(*arguments)):  # noqa: ASYNC110  # kubectl is asked
                await asyncio.sleep(0.1)
        return found

    def ready(self, node: Any) -> str:
        found: str = next(each["status"] for each in node["status"]["conditions"] if each["type"] == "Ready")
        return found


@contextlib.asynccontextmanager
async def running(cluster: Cluster, directory: Path, name: str, **changes: Any) -> AsyncIterator[Running]:
    client = await join(cluster, joining(directory, name))
    recorder = Recorder(client.sharing(queries_per_second=50, burst=100), host=name)
    settings = Settings(name=name, directory=directory, pki_directory=directory / "pki", **changes)
    problems: list[str] = []
    shown: list[Path] = []
    node = Node(
        settings, client, recorder,
        sources=Sources(problems=lambda: problems), on_serving_certificate=shown.append,
    )  # fmt: skip
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(node.run()), group.create_task(recorder.run())]
            await asyncio.wait([group.create_task(node.synced.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
            if not tasks[0].done():
                yield Running(cluster, node, client, shown, problems)
            for each in tasks:
                each.cancel()
    finally:
        await client.close()


async def test_the_life_of_a_node(cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(cluster, tmp_path, "wasm-1", labels={"example.com/a": "b"}) as it:
        node = await it.until("node", "wasm-1", holds=lambda each: it.ready(each) == "True")
        assert node["metadata"]["labels"] == {
            "example.com/a": "b", "kubernetes.io/hostname": "wasm-1",
            "kubernetes.io/arch": "wasm32-wasi", "beta.kubernetes.io/arch": "wasm32-wasi",
            "kubernetes.io/os": "wasi", "beta.kubernetes.io/os": "wasi",
        }  # fmt: skip
        assert {(each["key"], each.get("value"), each["effect"]) for each in node["spec"]["taints"]} >= {
            ("kubernetes.io/arch", "wasm32-wasi", "NoSchedule"), ("kubernetes.io/arch", "wasm32-wasi", "NoExecute"),
        }  # fmt: skip
        status = node["status"]
        assert [each["type"] for each in status["conditions"]] == [
            "MemoryPressure", "DiskPressure", "PIDPressure", "Ready",
        ]  # fmt: skip
        assert status["nodeInfo"]["architecture"] == "wasm-wasi"
        assert [each["type"] for each in status["addresses"]] == ["InternalIP", "Hostname"]
        assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
        assert set(status["capacity"]) == {"cpu", "memory", "ephemeral-storage", "pods"}
        assert it.node.latest is not None
        assert it.node.latest.metadata.uid == node["metadata"]["uid"]
        await it.until("node", "wasm-1", holds=lambda each: each["spec"].get("podCIDR"))
        await eventually(lambda: it.node.latest is not None and it.node.latest.spec.pod_cidrs)
        await _lease_and_serving(it, node)
        await _deleted_and_back(it, node)
        await _shut_down(it)
    texts = [record.getMessage() for record in caplog.records]
    assert not [each for each in texts if "orbidden" in each or "not sent" in each or "failed" in each]
    assert cluster.bootstrap_token.partition(".")[2] not in caplog.text


async def _lease_and_serving(it: Running, node: Any) -> None:
    lease = await it.until("lease", "-n", "kube-node-lease", "wasm-1", holds=lambda each: each["spec"].get("renewTime"))
    assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
    assert lease["spec"]["leaseDurationSeconds"] == 40
    assert keys.certificate(it.shown[-1].read_bytes()).is_self_signed
    pending = await it.until("csr", holds=lambda each: _named(each, "kubernetes.io/kubelet-serving"))
    name = _named(pending, "kubernetes.io/kubelet-serving")[0]
    await asyncio.to_thread(it.cluster.kubectl, "certificate", "approve", name)
    await eventually(lambda: len(it.shown) == 2)
    shown = keys.certificate(it.shown[-1].read_bytes())
    assert not shown.is_self_signed
    assert shown.names == {"wasm-1", *it.node.addresses}
    before = from_text(lease["spec"]["renewTime"])
    await it.until(
        "lease", "-n", "kube-node-lease", "wasm-1", holds=lambda each: from_text(each["spec"]["renewTime"]) > before
    )


async def _deleted_and_back(it: Running, node: Any) -> None:
    await asyncio.to_thread(it.cluster.kubectl, "delete", "node", "wasm-1")
    await eventually(lambda: it.node.latest is not None and it.node.latest.metadata.uid != node["metadata"]["uid"])
    again = await it.until("node", "wasm-1", holds=lambda each: it.ready(each) == "True")
    assert again["metadata"]["uid"] != node["metadata"]["uid"]
    assert again["spec"]["podCIDR"] == (await it.get("node", "wasm-1"))["spec"]["podCIDR"]
    await it.until(
        "lease", "-n", "kube-node-lease", "--ignore-not-found", "wasm-1",
        holds=lambda each: each and each["metadata"]["ownerReferences"][0]["uid"] == again["metadata"]["uid"],
    )  # fmt: skip


async def _shut_down(it: Running) -> None:
    it.node.begin_shutdown()
    node = await it.until("node", "wasm-1", holds=lambda each: it.ready(each) == "False")
    ready = node["status"]["conditions"][-1]
    assert (ready["reason"], ready["message"]) == ("KubeletNotReady", "node is shutting down")
    wanted = {"Starting", "NodeHasSufficientMemory", "NodeReady", "Shutdown", "NodeNotReady"}
    events = await it.until(
        "events", "-n", "default", "--field-selector=involvedObject.name=wasm-1",
        holds=lambda each: wanted <= {item["reason"] for item in each["items"]},
    )  # fmt: skip
    assert {each["source"].get("component") for each in events["items"] if each["reason"] in wanted} == {"kubelet"}


def _named(requests: Any, signer: str) -> list[str]:
    return [each["metadata"]["name"] for each in requests["items"] if each["spec"]["signerName"] == signer]


async def test_a_restart_takes_up_the_node_and_refuses_other_taints(cluster: Cluster, tmp_path: Path) -> None:
    async with running(cluster, tmp_path, "wasm-2") as it:
        await it.until("node", "wasm-2", holds=lambda each: it.ready(each) == "True")
        uid = it.node.latest.metadata.uid if it.node.latest is not None else ""
    async with running(cluster, tmp_path, "wasm-2", os_label="linux") as it:
        assert it.node.latest is not None
        assert it.node.latest.metadata.uid == uid
        assert it.node.latest.metadata.labels["kubernetes.io/os"] == "linux"
    client = await join(cluster, joining(tmp_path, "wasm-2"))
    settings = Settings(
        name="wasm-2", directory=tmp_path, pki_directory=tmp_path / "pki", taints=(parse_taint("a=b:NoSchedule"),)
    )
    try:
        with pytest.raises(UserError) as caught:
            await Node(settings, client, Recorder(client, host="wasm-2")).run()
        assert caught.value.hint is not None
        command = caught.value.hint.partition("kubectl ")[2].split()
        await asyncio.to_thread(cluster.kubectl, *command)  # the command that it shows is the remedy
    finally:
        await client.close()
    async with running(cluster, tmp_path, "wasm-2", taints=(parse_taint("a=b:NoSchedule"),)) as it:
        assert it.node.latest is not None
        assert "a=b:NoSchedule" in map(str, it.node.latest.spec.taints)


async def test_two_nodes_on_one_machine(cluster: Cluster, tmp_path: Path) -> None:
    async with (
        running(cluster, tmp_path / "a", "wasm-3", port=10261) as one,
        running(cluster, tmp_path / "b", "wasm-4", port=10262) as other,
    ):
        for it, name, port in ((one, "wasm-3", 10261), (other, "wasm-4", 10262)):
            node = await it.until("node", name, holds=lambda each, it=it: it.ready(each) == "True")
            assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == port
        with pytest.raises(ConflictError, match="Ready in the cluster already"):
            await join(cluster, joining(tmp_path / "c", "wasm-3"))


async def test_a_node_that_a_kubelet_serves_is_not_taken(cluster: Cluster, tmp_path: Path) -> None:
    status = {"nodeInfo": {
        "containerRuntimeVersion": "containerd://2.0", "architecture": "amd64", "bootID": "", "kernelVersion": "",
        "kubeProxyVersion": "", "kubeletVersion": "v1.36.0", "machineID": "", "operatingSystem": "linux",
        "osImage": "", "systemUUID": "",
    }}  # fmt: skip
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "linux-1"}, "status": status}
    await asyncio.to_thread(cluster.kubectl, "create", "-f", "-", stdin=json.dumps(node).encode())
    client = await join(cluster, joining(tmp_path, "linux-1"))
    settings = Settings(name="linux-1", directory=tmp_path, pki_directory=tmp_path / "pki")
    try:
        with pytest.raises(ConflictError, match="another agent's"):
            await Node(settings, client, Recorder(client, host="linux-1")).run()
    finally:
        await client.close()


async def test_a_client_certificate_is_renewed_by_itself(cluster: Cluster, tmp_path: Path) -> None:
    how = joining(tmp_path, "wasm-5", certificate_seconds=600)
    client = await join(cluster, how)
    store = bootstrap.client_store(how.pki_directory)
    first = store.load()
    assert first is not None
    assert keys.certificate(first).not_after - keys.certificate(first).not_before < 1200
    renewed = asyncio.Event()

    async def on_new() -> None:
        await client.rotate()
        renewed.set()

    ahead = 0.0

    def now() -> float:
        return keys.certificate(first).not_after - 1 if not renewed.is_set() else ahead

    keeping = ClientCertificate(client, store, "wasm-5", on_new=on_new, now=now, certificate_seconds=600)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(keeping.run())
            async with asyncio.timeout(30):
                await renewed.wait()
            task.cancel()
        second = store.load()
        assert second is not None
        assert keys.certificate(second).public_key != keys.certificate(first).public_key
        whoami = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
        answer = await client.raw("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=whoami)
        assert json.loads(answer)["status"]["userInfo"]["username"] == "system:node:wasm-5"
    finally:
        await client.close()


async def test_a_bootstrap_kubeconfig_and_a_denied_request(cluster: Cluster, tmp_path: Path) -> None:
    from wasmlet.kube import kubeconfig

    access = await bootstrap.bootstrap(joining(tmp_path / "a", "wasm-6"), kubeconfig.load(cluster.bootstrap_kubeconfig))
    assert bootstrap.node_of(access) == "wasm-6"
    with pytest.raises(UserError, match="is not signed with this token"):
        await bootstrap.join(
            joining(tmp_path / "b", "wasm-7"),
            server=cluster.server,
            token=cluster.bootstrap_token[:-1] + ("a" if cluster.bootstrap_token[-1] != "a" else "b"),
            ca_hashes=[cluster.ca_hash],
        )


async def test_the_manifests_are_accepted(cluster: Cluster) -> None:
    deploy = Path(__file__).parents[3] / "deploy"
    for each in ("rbac.yaml", "runtimeclasses.yaml", "daemonset.yaml"):
        await asyncio.to_thread(cluster.kubectl, "apply", "--dry-run=server", "--validate=strict", "-f", deploy / each)
