"""The cluster half of the composition root: this agent as a node.

`connect` gives the rooms what they need from the API server; `run` keeps the node, its pods and the kubelet API going
beside what `agent` has built. Without a cluster nothing of this is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wasmlet.base.errors import NotFoundError, WasmletError, first_of
from wasmlet.base.files import read_if_present, write_atomically
from wasmlet.config import NetworkMode
from wasmlet.kube import kubeconfig
from wasmlet.kube.client import Client
from wasmlet.kube.events import Recorder, about_node, about_pod
from wasmlet.kube.kubeconfig import Access
from wasmlet.kube.objects import Objects
from wasmlet.kube.objects_cache import ClusterObjects
from wasmlet.kube.runtime_classes import RuntimeClasses
from wasmlet.kube.services import Services
from wasmlet.kube.settings import Settings as KubeSettings
from wasmlet.kube.tokens import TokenSource
from wasmlet.kube.types import Pod
from wasmlet.node import addresses, bootstrap, shutdown
from wasmlet.node.composition import Node
from wasmlet.node.conditions import Network
from wasmlet.node.files import Watched, follow
from wasmlet.node.objects import NodeObject
from wasmlet.node.offer import Offer
from wasmlet.node.report import Sources
from wasmlet.node.settings import Settings as NodeSettings
from wasmlet.node.shutdown import GracefulShutdown
from wasmlet.node.sources import Machinery
from wasmlet.pods import handlers
from wasmlet.pods.accounts import News, Progress
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.mirror import Mirrors, Owner
from wasmlet.pods.references import references_of
from wasmlet.pods.report import Reporter
from wasmlet.pods.rooms import Listener, Rooms
from wasmlet.pods.service_accounts import PodAccount, PodTokens
from wasmlet.pods.source import SOURCE, ApiSource
from wasmlet.pods.static import SOURCE_ANNOTATION
from wasmlet.sandbox.namespace import Namespace
from wasmlet.sandbox.network import NodeAddress, PodAddresses
from wasmlet.sandbox.pod_cidr import PodCidr
from wasmlet.server import configz
from wasmlet.server.authentication import Authenticator
from wasmlet.server.authorization import Authorizer
from wasmlet.server.health import Health, HealthPort
from wasmlet.server.hub import Hub
from wasmlet.server.kubelet import KubeletServer
from wasmlet.server.kubelet import Settings as ServerSettings
from wasmlet.server.reviews import ApiReviews
from wasmlet.server.serving_files import ServingFiles
from wasmlet.server.summary import Places, Summary

CLIENT_CA_NAME = "client-ca.pem"
QUERIES_PER_SECOND = 400.0
QUERIES_BURST = 800
"""A pod takes four to six requests (token, statuses), so a kubelet's own 50/s would let about ten start in a second;
many small pods are what this node is for, and the API server has priority and fairness to defend itself."""

REVIEWS_PER_SECOND = 20.0
EVENTS_PER_SECOND = 50.0
EVENTS_BURST = 100
"""The kubelet's own limits for events (contract 1.6)."""

LAST_EVENTS_SECONDS = 3.0
"""For what is still to be told when the machine goes down."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How this agent joins.

    Attributes:
        node: What the node is called and how it shows itself.
        kubeconfig: The node's identity; written by bootstrapping when it is missing.
        bootstrap_kubeconfig: Credentials that may only ask for an identity; None when there is one.
        client_ca_file: Whose certificates callers of the kubelet API may show; None: the cluster's own authority.
        healthz_port: Where /healthz is answered on loopback, without TLS and for everybody; 0: nowhere.
        network: Whether pods have addresses of the Node's podCIDRs (`podcidr`), or the node's own (`host`).
    """

    node: NodeSettings
    kubeconfig: Path
    bootstrap_kubeconfig: Path | None = None
    client_ca_file: Path | None = None
    healthz_port: int = 0
    network: NetworkMode = "podcidr"


class Cluster:
    """What the API server gives to the rooms, and a listener that tells it what happens."""

    def __init__(self, settings: Settings, access: Access, *, host_ips: tuple[str, ...]) -> None:
        self.settings = settings
        self.host_ips = host_ips
        self.client = Client(access, settings=KubeSettings(queries_per_second=QUERIES_PER_SECOND, burst=QUERIES_BURST))
        self.recorder = Recorder(
            self.client.sharing(queries_per_second=EVENTS_PER_SECOND, burst=EVENTS_BURST), host=settings.node.name
        )
        self.reporter = Reporter(self.client)
        self.tokens = PodTokens(TokenSource(self.client))
        self.services = Services(self.client)
        self.runtime_classes = RuntimeClasses(self.client)
        self.offer = Offer(self.client, settings.node, shares_address=settings.network == "host")
        self.dispatch: Dispatch | None = None
        self.shutdown = GracefulShutdown(settings.node, pods=self._living, terminate=self._terminate)
        self.machinery: Machinery | None = None
        self._places: Places | None = None
        self.image_settings: dict[str, object] = {}
        self._node: Node | None = None
        self.pod_cidr = _pod_cidr(settings, host_ips)
        self._objects = ClusterObjects(self.client, on_change=self._object_changed)
        self._access = access

    def __repr__(self) -> str:
        return f"<Cluster {self.settings.node.name} {self.client!r}>"

    def objects(self, bundle: Bundle) -> Objects:
        """The cluster's for its pods; what came with a bundle for the others."""
        if bundle.source != SOURCE:
            return bundle.documents()
        for kind, name in references_of(bundle.pod):
            self._objects.acquire(bundle.uid, kind, bundle.pod.metadata.namespace, name)
        return self._objects

    def account(self, pod: Pod) -> PodAccount | None:
        """The pod's service account; static pods and those of a terminal have none."""
        is_ours = pod.metadata.resource_version and SOURCE_ANNOTATION not in pod.metadata.annotations
        return PodAccount(pod, self.client, self.tokens) if is_ours and pod.spec.service_account_name else None

    def service_variables(self, pod: Pod) -> Mapping[str, str]:
        """What the Services add to the environment of the pod's containers."""
        return self.services.variables(pod.metadata.namespace, links=pod.spec.enable_service_links is not False)

    async def runtime_handler(self, pod: Pod) -> str:
        """The handler of the pod's RuntimeClass; "" for a pod without one.

        Raises:
            UserError: The class is gone, or its handler is none of this node's; reason FailedCreatePodSandBox.
        """
        if pod.metadata.resource_version == "":
            return await handlers.of_manifest(pod)  # of a terminal
        name = pod.spec.runtime_class_name
        try:
            return handlers.check(await self.runtime_classes.handler(name) if name else "")
        except NotFoundError as error:
            raise NotFoundError(f"Failed to create pod sandbox: {error}", reason=handlers.SANDBOX_REASON) from None

    @property
    def addresses(self) -> PodAddresses:
        """Where pods have their addresses from."""
        return self.pod_cidr or NodeAddress(*self.host_ips)

    def release(self, uid: str) -> None:
        """The pod is gone."""
        self._objects.release(uid)
        self.tokens.release(uid)
        self.reporter.forget(uid)

    def _node_changed(self, node: NodeObject) -> None:
        if self.pod_cidr is not None:
            self.pod_cidr.offer(node.spec.pod_cidrs or [each for each in (node.spec.pod_cidr,) if each])

    def _object_changed(self, uid: str) -> None:
        if self.dispatch is not None:
            self.dispatch.refresh(uid)

    async def shut_down(self) -> None:
        """A signal came: when it is because the machine goes down, end the pods first (contract 1.5).

        `run` must go on meanwhile: Ready becomes False by it, and the Lease says that somebody is at work.
        """
        if self._node is None or not self.shutdown.is_enabled or not await shutdown.is_machine_stopping():
            return
        self._node.begin_shutdown()
        await self.shutdown.run()
        with contextlib.suppress(TimeoutError):  # nobody tells them later
            async with asyncio.timeout(LAST_EVENTS_SECONDS):
                await self.recorder.flush()

    def _living(self) -> list[shutdown.ShutdownPod]:
        return [] if self.dispatch is None else shutdown.living(self.dispatch)

    async def _terminate(self, uid: str, grace_seconds: float) -> None:
        if self.dispatch is not None:
            await shutdown.terminate(self.dispatch, self.reporter, uid, grace_seconds)

    def _network(self) -> Network | None:
        """What the Node's condition says of the pod network; None: it is none of ours."""
        if self.pod_cidr is None:
            return None
        problem = self.pod_cidr.problem
        return Network() if problem is None else Network(problem.message, problem.reason)

    async def run(self, dispatch: Dispatch, hub: Hub) -> None:
        """Be a node until cancelled.

        Raises:
            UserError, ConflictError: The node cannot be ours as the settings want it.
        """
        try:
            await self._run(dispatch, hub)
        except* WasmletError as errors:
            raise first_of(errors) from None

    async def _run(self, dispatch: Dispatch, hub: Hub) -> None:
        self.dispatch = dispatch
        health = Health(last_loop=self._last_loop)
        server = self._server(dispatch, hub, health)
        files = ServingFiles(server, client_ca=self._client_ca())
        mirrors = Mirrors(self.client, dispatch, self.reporter, owner=self._owner)
        source = ApiSource(self.client, dispatch, node_name=self.settings.node.name, mirrors=mirrors)
        ours = bootstrap.is_ours(self._access, self.settings.node.pki_directory)
        node = self._node = Node(
            dataclasses.replace(self.settings.node, rotates_client_certificate=ours),
            self.client,
            self.recorder,
            sources=self._sources(source),
            on_serving_certificate=files.show,
            begin_again=None if self.settings.bootstrap_kubeconfig is None else self._bootstrap_again,
            on_node=self._node_changed,
        )
        watched = (
            Watched("client authorities", files.authorities, changed=files.read_again),
            Watched("identity of the node", lambda: self._identity_files(is_ours=ours), changed=self._take_over),
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.client.close)
            stack.push_async_callback(self._objects.close)
            stack.push_async_callback(server.close)
            await server.start(self.host_ips[0], self.settings.node.port)
            async with asyncio.TaskGroup() as group:
                if self.pod_cidr is not None:
                    self.pod_cidr.on_change = functools.partial(_network_changed, node, dispatch)
                    group.create_task(self.pod_cidr.run(), name="pod network")
                group.create_task(self.recorder.run(), name="events")
                group.create_task(node.run(), name="node")
                group.create_task(follow(watched), name="files that others replace")
                if self.settings.healthz_port:
                    group.create_task(HealthPort(health, self.settings.healthz_port).run(), name="healthz")
                group.create_task(self.services.run(), name="services")
                group.create_task(self.runtime_classes.run(), name="runtime classes")
                await node.synced.wait()
                self.offer.begin(lambda: node.latest)
                await self.services.synced.wait()
                group.create_task(self.reporter.run(), name="status reports")
                group.create_task(source.run(), name="pods of the API server")
                group.create_task(mirrors.run(), name="mirror pods")

    def equip(self, rooms: Rooms, state: Path, image_settings: dict[str, object]) -> None:
        """Take note of what runs the pods: the Node tells of it, and /configz of the settings of images."""
        self.image_settings = image_settings
        self.machinery = Machinery(rooms.library, rooms.engines, state)
        self._places = Places(node_name=self.settings.node.name, state=state, images=rooms.library.directory)
        rooms.engines.launcher.on_trouble = self._report_now

    def warn(self, reason: str, message: str) -> None:
        """A Warning event of the Node."""
        about = about_node(self.settings.node.name, uid=self._owner().uid)
        self.recorder.record(about, type="Warning", reason=reason, message=message)

    def _report_now(self) -> None:
        if self._node is not None:
            self._node.report_now()

    def _owner(self) -> Owner:
        latest = None if self._node is None else self._node.latest
        return Owner(name=self.settings.node.name, uid="" if latest is None else latest.metadata.uid)

    def _sources(self, source: ApiSource) -> Sources:
        machinery = self.machinery
        assert machinery is not None, "a cluster without rooms runs no pods"

        def problems() -> tuple[str, ...]:
            unknown = () if source.has_synced else ("the pods of this node are not known yet",)
            return (*unknown, *machinery.problems())

        return Sources(problems=problems, images=machinery.images, network=self._network)

    def _last_loop(self) -> float:
        return time.monotonic() if self._node is None else self._node.looked_at

    def _server(self, dispatch: Dispatch, hub: Hub, health: Health) -> KubeletServer:
        reviews = ApiReviews(self.client.sharing(queries_per_second=REVIEWS_PER_SECOND, burst=int(REVIEWS_PER_SECOND)))
        client_ca, node = self._client_ca(), self.settings.node
        configuration = (
            configz.of_node(
                node,
                healthz_port=self.settings.healthz_port,
                client_ca_file="" if client_ca is None else str(client_ca),
            )
            | self.image_settings
        )
        return KubeletServer(
            ServerSettings(configuration=configuration), dispatch, hub,
            Authenticator(reviews), Authorizer(reviews, node_name=node.name),
            health=health, summary=None if self._places is None else Summary(self._places, dispatch),
        )  # fmt: skip

    # --- files that others replace ------------------------------------------------------------------------------------

    def _client_ca(self) -> Path | None:
        """Whose certificates callers may show, as a file; by default the cluster's own authority."""
        authority = self.settings.client_ca_file or self._access.authority
        if authority is None or isinstance(authority, Path):
            return authority
        path = self.settings.node.pki_directory / CLIENT_CA_NAME
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if read_if_present(path) != authority:
            write_atomically(path, authority)
        return path

    def _identity_files(self, *, is_ours: bool) -> list[Path]:
        """What the identity is read from. A certificate of our own making is renewed, and taken over, elsewhere."""
        access = self._access
        pair = () if is_ours else (access.certificate, access.key)
        return [self.settings.kubeconfig, *(each for each in (*pair, access.authority) if isinstance(each, Path))]

    async def _bootstrap_again(self) -> None:
        assert self.settings.bootstrap_kubeconfig is not None
        access = kubeconfig.load(self.settings.bootstrap_kubeconfig)
        self._access = await bootstrap.bootstrap(_joining(self.settings), access)

    async def _take_over(self) -> None:
        """Somebody (kubeadm, cert-manager, a person) has put another identity in place."""
        access = kubeconfig.load(self.settings.kubeconfig)
        bootstrap.check_identity(access, self.settings.node.name)
        await self.client.rotate(access)
        self._access = access
        self._client_ca()


class ClusterListener:
    """Tells both: watchers of this machine, and the API server about its own pods."""

    def __init__(self, hub: Listener, cluster: Cluster) -> None:
        self._hub = hub
        self._cluster = cluster

    def changed(self, uid: str) -> None:
        """The pod's status may be another."""
        self._hub.changed(uid)
        dispatch = self._cluster.dispatch
        if dispatch is not None and dispatch.has(uid) and dispatch.get(uid).bundle.source != "local":
            self._cluster.reporter.changed(dispatch.get(uid))

    def removed(self, uid: str) -> None:
        """The pod and all its files are gone."""
        self._hub.removed(uid)
        self._cluster.release(uid)

    def is_watched(self, uid: str) -> bool:
        """Whether somebody follows the pod now."""
        return self._hub.is_watched(uid)

    def news(self, pod: Pod, news: News) -> None:
        """Something happened."""
        self._hub.news(pod, news)
        # Only the API server gives a version; `kubectl describe` of a mirror looks for events of the static pod's UID.
        if pod.metadata.resource_version or SOURCE_ANNOTATION in pod.metadata.annotations:
            field_path = _field_path(pod, news.container)
            about = about_pod(pod, field_path=field_path)
            self._cluster.recorder.record(about, type=news.kind, reason=news.reason, message=news.message)

    def progress(self, uid: str, progress: Progress) -> None:
        """Long work goes on; nothing that the API server has a place for."""
        self._hub.progress(uid, progress)


def _network_changed(node: Node, dispatch: Dispatch) -> None:
    node.report_now()
    dispatch.retry()


def _pod_cidr(settings: Settings, host_ips: tuple[str, ...]) -> PodCidr | None:
    if settings.network == "host":
        return None
    return PodCidr(Namespace(settings.node.directory, node=settings.node.name), host_ips=host_ips)


def _field_path(pod: Pod, container: str) -> str:
    if not container:
        return ""
    inits = {each.name for each in pod.spec.init_containers}
    return f"spec.{'initContainers' if container in inits else 'containers'}{{{container}}}"


async def connect(settings: Settings) -> Cluster:
    """An identity for the node (asked for, where there is none) and what comes with it.

    Raises:
        UserError: The credentials cannot be used, or were refused.
        RetryableError: The API server, or the approval, did not come.
    """
    node, joining = settings.node, _joining(settings)
    access = bootstrap.usable(joining)
    if access is None and settings.bootstrap_kubeconfig is not None:
        access = await bootstrap.bootstrap(joining, kubeconfig.load(settings.bootstrap_kubeconfig))
    if access is None:
        # Over, or half there: a kubelet goes on with it too, and takes over what somebody puts in its place.
        access = kubeconfig.load(settings.kubeconfig)
    host_ips = await addresses.find(configured=node.node_ips, name=node.name)
    return Cluster(settings, access, host_ips=host_ips)


def _joining(settings: Settings) -> bootstrap.Joining:
    node = settings.node
    return bootstrap.Joining(node=node.name, kubeconfig=settings.kubeconfig, pki_directory=node.pki_directory)
