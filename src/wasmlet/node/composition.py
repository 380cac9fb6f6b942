"""The node as one thing: register, then keep Node, Lease and certificates until the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from wasmlet.base.clock import Clock, system_clock
from wasmlet.base.errors import WasmletError, first_of
from wasmlet.kube.client import Client
from wasmlet.kube.events import Recorder, about_node
from wasmlet.node.bootstrap import client_store
from wasmlet.node.certificates import SERVING_PREFIX, ClientCertificate, ServingCertificate
from wasmlet.node.conditions import SHUTTING_DOWN, NodeEvent
from wasmlet.node.lease import RENEWALS_PER_LEASE, LeaseRenewer
from wasmlet.node.objects import NodeObject
from wasmlet.node.own import OwnNode
from wasmlet.node.registration import register
from wasmlet.node.report import Reporter, Sources
from wasmlet.node.settings import Settings
from wasmlet.node.status import advertised_version
from wasmlet.node.store import Store

__all__ = ["Node"]

logger = logging.getLogger(__name__)


class Node:
    """This machine as a node of a cluster.

    Args:
        client: By the node's identity. Heartbeats get limits of their own on its connections.
        recorder: Tells the Node's events; somebody else runs it.
        sources: What other rooms know.
        on_serving_certificate: Called with the PEM file (certificate, chain, key) that the kubelet API shows from now
            on: self-signed at first, then the cluster's.
        on_node: Called with each new state of the Node object.
        begin_again: See `ClientCertificate`.

    `run` does everything; the properties may be asked from the moment that `registered` is set.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        recorder: Recorder,
        *,
        sources: Sources | None = None,
        on_serving_certificate: Callable[[Path], None] = lambda _: None,
        on_node: Callable[[NodeObject], None] = lambda _: None,
        begin_again: Callable[[], Awaitable[None]] | None = None,
        now: Clock = system_clock,
    ) -> None:
        self.settings = settings
        self.registered = asyncio.Event()
        self._client = client
        self._recorder = recorder
        interval = settings.lease_seconds / RENEWALS_PER_LEASE
        heart = client.sharing(queries_per_second=None, timeout_seconds=interval)
        self._own = OwnNode(client, settings.name, register=self._register)
        self._reporter = Reporter(
            heart, settings, sources or Sources(), self._own,
            record=self._record, on_addresses=self._addresses_found, now=now,
        )  # fmt: skip
        self._lease = LeaseRenewer(
            heart, settings.name, node_uid=lambda: self._own.uid, seconds=settings.lease_seconds, now=now
        )
        self._on_node = on_node
        self._was_unschedulable = False  # as the kubelet starts: a cordoned node says so at each start
        self._own.changed = self._node_changed
        self._client_certificate = ClientCertificate(
            client, client_store(settings.pki_directory), settings.name, on_new=client.rotate, begin_again=begin_again,
            wait_seconds=settings.rotation_wait_seconds, certificate_seconds=settings.certificate_seconds, now=now,
        )  # fmt: skip
        self._serving_certificate = ServingCertificate(
            client, Store(settings.pki_directory, SERVING_PREFIX), settings.name, on_new=on_serving_certificate,
            is_requested=settings.requests_serving_certificate, certificate_seconds=settings.certificate_seconds,
            now=now,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Node {self.settings.name} {self._own.uid or 'unregistered'}>"

    # --- what others ask ----------------------------------------------------------------------------------------------

    @property
    def latest(self) -> NodeObject | None:
        """The Node as the cluster has it: labels, taints, podCIDRs, allocatable. None before it is registered."""
        return self._own.latest

    @property
    def synced(self) -> asyncio.Event:
        """Set when the watch has told the Node: pods are admitted from then on (contract section 3)."""
        return self._own.synced

    @property
    def addresses(self) -> tuple[str, ...]:
        """The node's own addresses (hostIPs), the most important first; empty before they are known."""
        return self._reporter.addresses

    @property
    def looked_at(self) -> float:
        """When the node was last looked at, on the monotonic clock; before it is registered: now."""
        return self._reporter.looked_at if self.registered.is_set() else time.monotonic()

    def report_now(self) -> None:
        """Compute and send the status at once: a reason against Ready came or went, a volume is about to be mounted."""
        self._reporter.wake()

    def begin_shutdown(self) -> None:
        """The machine goes down: Ready becomes False at once, and the event `Shutdown` is recorded."""
        self._reporter.local_problems = (SHUTTING_DOWN,)
        self._record(NodeEvent(reason="Shutdown", message="Shutdown manager detected shutdown event"))
        self.report_now()

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Register, then be a node until cancelled. The Node object stays; it is for administrators to delete.

        Raises:
            UserError, ConflictError: The Node cannot be ours as the settings want it (see `registration.register`).
        """
        self._reporter.kubelet_version = advertised_version(self.settings.kubelet_version, await self._server_version())
        try:
            async with asyncio.TaskGroup() as group:
                # Port 10250 needs a certificate before the cluster knows the node, so this does not wait.
                group.create_task(self._serving_certificate.run(), name="node serving certificate")
                if self.settings.rotates_client_certificate and client_store(self.settings.pki_directory).load():
                    group.create_task(self._client_certificate.run(), name="node client certificate")
                await self._own.register()
                self._record(NodeEvent(reason="Starting", message="Starting kubelet."))
                self.registered.set()
                group.create_task(self._own.run(), name="node watch")
                group.create_task(self._lease.run(), name="node lease")
                group.create_task(self._reporter.run(), name="node status")
        except* WasmletError as errors:
            raise first_of(errors) from None

    async def _register(self) -> NodeObject:
        knowledge = await self._reporter.look()
        status, events = self._reporter.rendered(knowledge, ())
        former = self._own.latest
        node, is_new = await register(self._client, self.settings, status, former=former)
        uid = node.metadata.uid
        for event in events if is_new else ():
            self._record(event, uid=uid)
        boot_id = status.node_info.boot_id
        if node.status.node_info.boot_id not in ("", boot_id):
            message = f"Node {self.settings.name} has been rebooted, boot id: {boot_id}"
            self._record(NodeEvent(reason="Rebooted", message=message, type="Warning"), uid=uid)
        return node

    async def _server_version(self) -> str:
        """GitVersion of the API server; empty when it does not say."""
        with contextlib.suppress(WasmletError, msgspec.DecodeError):
            content = await self._client.raw("GET", "/version", what="get the version")
            return msgspec.json.decode(content, type=_Version).git_version
        return ""

    def _node_changed(self, node: NodeObject, *, is_another: bool) -> None:
        if is_another:
            self._lease.wake()
        if node.spec.unschedulable != self._was_unschedulable:
            self._was_unschedulable = node.spec.unschedulable
            reason = "NodeNotSchedulable" if node.spec.unschedulable else "NodeSchedulable"
            message = f"Node {self.settings.name} status is now: {reason}"
            self._record(NodeEvent(reason=reason, message=message), uid=node.metadata.uid)
        self._on_node(node)

    def _addresses_found(self, addresses: tuple[str, ...]) -> None:
        self._serving_certificate.set_addresses(addresses)

    def _record(self, event: NodeEvent, *, uid: str = "") -> None:
        about = about_node(self.settings.name, uid=uid or self._own.uid)
        self._recorder.record(about, type=event.type, reason=event.reason, message=event.message)


class _Version(msgspec.Struct, rename="camel"):
    git_version: str = ""
