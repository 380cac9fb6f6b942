"""This room against a real API server with Node authorizer and NodeRestriction (devcluster)."""

import asyncio
import contextlib
import dataclasses
import datetime
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.cluster import Cluster, running_cluster
from tests.support.waiting import eventually
from wasmlet.base.errors import NotFoundError, RetryableError
from wasmlet.base.tasks import Tasks
from wasmlet.kube.client import Client, Patch
from wasmlet.kube.errors import AlreadyExistsError, ForbiddenError, InvalidError, OutdatedError
from wasmlet.kube.events import EVENTS, Recorder, about_pod
from wasmlet.kube.kubeconfig import Access, load
from wasmlet.kube.objects_cache import ClusterObjects
from wasmlet.kube.resources import CONFIG_MAPS, PODS, SECRETS, Resource
from wasmlet.kube.settings import Settings
from wasmlet.kube.tokens import TokenSource, Wanted
from wasmlet.kube.types import ConfigMap, Container, EnvFromSource, ObjectMeta, ObjectReference, Pod, PodSpec, Secret
from wasmlet.kube.watch import Added, Deleted, Modified, Synced, Unavailable, watch_resource

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.xdist_group("devcluster"),
    pytest.mark.timeout(180, func_only=True),
]

NODE = "n1"
SETTINGS = Settings(watch_seconds=(1.0, 2.0), page_size=2)


class Machine(msgspec.Struct, rename="camel"):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    kind: str = "Node"


NODES = Resource(Machine, "v1", "nodes", is_namespaced=False)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def admin(cluster: Cluster) -> AsyncIterator[Client]:
    client = Client(load(cluster.admin_kubeconfig), settings=SETTINGS)
    yield client
    await client.close()


@pytest.fixture
async def node(cluster: Cluster, admin: Client) -> AsyncIterator[Client]:
    """A client that is the node n1 and nobody else."""
    with contextlib.suppress(AlreadyExistsError):
        await admin.create(NODES, Machine(metadata=ObjectMeta(name=NODE)))
    client = Client(node_access(cluster), settings=SETTINGS)
    yield client
    await client.close()


def node_access(cluster: Cluster) -> Access:
    key = ec.generate_private_key(ec.SECP256R1())
    authority_key = serialization.load_pem_private_key(cluster.ca_key_file.read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.now(datetime.UTC)
    names = ((NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, f"system:node:{NODE}"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(*each) for each in names]))
        .issuer_name(x509.load_pem_x509_certificate(cluster.ca_file.read_bytes()).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Access(
        source="the test",
        server=cluster.server,
        authority=cluster.ca_file,
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=private,
    )


def web(name: str, **spec: Any) -> Pod:
    container = Container(name="main", image="x", **spec)
    return Pod(metadata=ObjectMeta(name=name), spec=PodSpec(containers=[container], node_name=NODE))


async def create_pod(admin: Client, pod: Pod) -> Pod:
    """The service account of a young cluster may need a moment."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await admin.create(PODS, pod, namespace="default")
            except ForbiddenError:
                await asyncio.sleep(0.2)


async def test_the_life_of_an_object(admin: Client) -> None:
    made = await admin.create(
        CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="a"), data={"k": "1"}), namespace="default"
    )
    assert made.metadata.uid
    with pytest.raises(AlreadyExistsError, match='configmaps "a" already exists'):
        await admin.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="a")), namespace="default")
    for number, (kind, body) in enumerate(
        (
            (Patch.MERGE, {"data": {"j": "1"}}),
            (Patch.STRATEGIC, {"data": {"j": "2"}}),
        ),
        start=1,
    ):
        patched = await admin.patch(CONFIG_MAPS, "a", body, kind=kind, namespace="default")
        assert patched.data == {"k": "1", "j": str(number)}
    with pytest.raises(OutdatedError):
        await admin.update(CONFIG_MAPS, made, namespace="default")
    with pytest.raises(OutdatedError):
        await admin.delete(CONFIG_MAPS, "a", namespace="default", uid="another")
    with pytest.raises(InvalidError):
        await admin.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="No Name")), namespace="default")
    with pytest.raises(InvalidError):
        await admin.patch(CONFIG_MAPS, "a", {"data": 7}, kind=Patch.MERGE, namespace="default")
    await admin.delete(CONFIG_MAPS, "a", namespace="default", uid=made.metadata.uid)
    with pytest.raises(NotFoundError):
        await admin.get(CONFIG_MAPS, "a", namespace="default")


async def test_pages_and_versions(admin: Client) -> None:
    for number in range(5):
        body = ConfigMap(metadata=ObjectMeta(name=f"page-{number}", labels={"page": "yes"}))
        await admin.create(CONFIG_MAPS, body, namespace="default")
    for version in ("", "0"):
        listed = await admin.list(CONFIG_MAPS, label_selector="page=yes", resource_version=version)
        assert len(listed.items) == 5
        assert int(listed.resource_version) > 0
    again = await admin.list(CONFIG_MAPS, label_selector="page=yes", resource_version=listed.resource_version)
    assert len(again.items) == 5
    with pytest.raises(RetryableError) as raised:
        await admin.sharing(queries_per_second=None).list(CONFIG_MAPS, resource_version="999999999")
    assert raised.value.reason == "ResourceVersionTooLarge"


async def test_a_watch_that_ends_again_and_again_loses_nothing(admin: Client) -> None:
    told: list[str] = []
    errors: list[object] = []

    async def follow() -> None:
        changes = watch_resource(admin, CONFIG_MAPS, namespace="default", label_selector="watch=yes")
        async with contextlib.aclosing(changes) as events:
            async for each in events:
                match each:
                    case Added(found) | Modified(found) | Deleted(found):
                        told.append(f"{type(each).__name__} {found.metadata.name}")
                    case Synced():
                        told.append("Synced")
                    case Unavailable(error):
                        errors.append(error)

    tasks = Tasks()
    tasks.start(follow(), name="watch")
    await eventually(lambda: told)
    expected = ["Synced"]
    for number in range(12):
        name = f"watch-{number}"
        body = ConfigMap(metadata=ObjectMeta(name=name, labels={"watch": "yes"}))
        await admin.create(CONFIG_MAPS, body, namespace="default")
        await admin.patch(CONFIG_MAPS, name, {"data": {"k": "v"}}, namespace="default")
        await asyncio.sleep(0.4)
        await admin.delete(CONFIG_MAPS, name, namespace="default")
        expected += [f"{verb} {name}" for verb in ("Added", "Modified", "Deleted")]
    await eventually(lambda: len(told) >= len(expected), told)
    assert told == expected
    assert errors == []
    await tasks.close()


async def test_a_node_reads_what_its_pods_refer_to(node: Client, admin: Client) -> None:
    await admin.create(SECRETS, Secret(metadata=ObjectMeta(name="s"), string_data={"k": "v"}), namespace="default")
    await admin.create(SECRETS, Secret(metadata=ObjectMeta(name="other")), namespace="default")
    changes: list[str] = []
    objects = ClusterObjects(node, on_change=changes.append)
    with pytest.raises(ForbiddenError):
        await node.list(SECRETS, namespace="default")
    pod = await create_pod(admin, web("reads", env_from=[EnvFromSource(secret_ref=ObjectReference(name="s"))]))
    objects.acquire(pod.metadata.uid, "Secret", "default", "s")
    assert (await objects.secret("default", "s")).data == {"k": "dg=="}
    await admin.patch(SECRETS, "s", {"data": {"k": "dzI="}}, namespace="default")
    await eventually(lambda: changes == [pod.metadata.uid], changes)
    assert (await objects.secret("default", "s")).data == {"k": "dzI="}
    objects.acquire(pod.metadata.uid, "Secret", "default", "other")
    with pytest.raises(RetryableError, match='secrets "other" is forbidden') as raised:
        await objects.secret("default", "other")
    assert raised.value.reason == "Forbidden"
    await objects.close()


async def test_a_node_gets_tokens_for_its_pods(node: Client, admin: Client) -> None:
    pod = await create_pod(admin, web("token"))
    source = TokenSource(node)
    wanted = Wanted(
        namespace="default", pod="token", pod_uid=pod.metadata.uid, service_account="default", expiration_seconds=600
    )
    token = await source.token(wanted)
    assert token.value.count(".") == 2
    assert await source.token(wanted) is token
    with pytest.raises(ForbiddenError):
        await TokenSource(node, forbidden_seconds=0.5).token(dataclasses.replace(wanted, audience="vault"))


async def test_a_node_writes_status_and_events(node: Client, admin: Client, cluster: Cluster) -> None:
    pod = await create_pod(admin, web("told"))
    status = {"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Running"}}
    patched = await node.patch(PODS, "told", status, namespace="default", subresource="status")
    assert patched.status.phase == "Running"
    wrong = {"metadata": {"uid": "another"}, "status": {"phase": "Failed"}}
    with pytest.raises(OutdatedError):
        await node.patch(PODS, "told", wrong, namespace="default", subresource="status")
    recorder = Recorder(node, host=NODE)
    tasks = Tasks()
    tasks.start(recorder.run(), name="events")
    about = about_pod(pod, field_path="spec.containers{main}")
    for _ in range(3):
        recorder.record(about, type="Normal", reason="Started", message="Container started")
        async with asyncio.timeout(20):
            await recorder.flush()
    listed = await admin.list(EVENTS, namespace="default", field_selector="involvedObject.name=told,reason=Started")
    assert [each.count for each in listed.items] == [3]
    await tasks.close()
    shown = await asyncio.to_thread(cluster.kubectl, "describe", "pod", "told")
    assert "Container started" in shown.stdout.decode()


async def test_a_node_deletes_its_pod_by_uid(node: Client, admin: Client) -> None:
    pod = await create_pod(admin, web("gone"))
    with pytest.raises(OutdatedError):
        await node.delete(PODS, "gone", namespace="default", uid="another", grace_seconds=0)
    await node.delete(PODS, "gone", namespace="default", uid=pod.metadata.uid, grace_seconds=0)
    with pytest.raises(NotFoundError):
        await admin.get(PODS, "gone", namespace="default")


async def test_a_kubeconfig_of_files(cluster: Cluster, tmp_path: Path) -> None:
    client = Client(load(cluster.admin_kubeconfig))
    assert b"ok" in await client.raw("GET", "/healthz")
    await client.rotate()
    assert b"gitVersion" in await client.raw("GET", "/version")
    await client.close()
