"""Keeping the Node's status true: computed each 10 s, sent when it changed or five minutes passed (contract 1.4)."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wasmlet.base.clock import Clock, system_clock, to_text
from wasmlet.base.errors import NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.kube.client import Client, Patch
from wasmlet.node import addresses, machine
from wasmlet.node.conditions import Health, Network, NodeEvent, abandoned, assess, pressed, sustained
from wasmlet.node.machine import Amounts
from wasmlet.node.objects import NODES, NodeCondition, NodeObject, NodeStatus
from wasmlet.node.own import OwnNode
from wasmlet.node.registration import managed_labels, patch_node
from wasmlet.node.settings import Settings
from wasmlet.node.status import Image, Knowledge, changes, patch_body, render

__all__ = ["Reporter", "Sources"]

logger = logging.getLogger(__name__)

ATTEMPTS: Final = 5
JITTER: Final = 0.04
FIRST_READY_POLL_SECONDS: Final = 0.1
ADDRESS_SECONDS: Final = 60.0
"""Between two looks at the node's own addresses: DNS is asked."""

ADDRESS_RETRY_SECONDS: Final = 5.0


async def _no_images() -> Sequence[Image]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What other rooms know of the node. All are asked each 10 s, and must answer at once.

    Attributes:
        problems: Reasons against Ready, one sentence each: `the pod list was never read`; none: Ready.
        images: What the store has.
        volumes_in_use: Names of volumes that are mounted or about to be; None: not known yet.
        network: The pod network, when this agent answers for it; None: NetworkUnavailable is somebody else's.
    """

    problems: Callable[[], Sequence[str]] = tuple
    images: Callable[[], Awaitable[Sequence[Image]]] = _no_images
    volumes_in_use: Callable[[], Iterable[str] | None] = tuple
    network: Callable[[], Network | None] = lambda: None


@dataclass(slots=True)
class _Sent:
    """The last patch: when, how far its five minutes are moved, and what the server did not take over from it."""

    at: float = float("-inf")
    offset: float = 0.0
    ignored: dict[str, Any] = dataclasses.field(default_factory=dict)


class Reporter:
    """Computes and sends the status.

    Args:
        client: With limits of its own and a timeout of no more than a round.
        own: The Node as it is known; answers are given to it.
        record: Takes the events of flips.
        on_addresses: Called with the node's addresses whenever they are found.

    Attributes:
        kubelet_version: What nodeInfo says.
        local_problems: Reasons against Ready of this room: the end of the machine.
        looked_at: When the last round began, on the monotonic clock: rounds that stop are an agent that is stuck.
    """

    def __init__(
        self,
        client: Client,
        settings: Settings,
        sources: Sources,
        own: OwnNode,
        *,
        record: Callable[[NodeEvent], None],
        on_addresses: Callable[[tuple[str, ...]], None],
        now: Clock = system_clock,
    ) -> None:
        self._client = client
        self._settings = settings
        self._sources = sources
        self._own = own
        self._record = record
        self._on_addresses = on_addresses
        self._now = now
        self._identity = machine.identity()
        self._pressure_seen_at: dict[str, float] = {}
        self._addresses_due = 0.0
        self._address_problem = ""
        self._amounts: Amounts | None = None
        self._amounts_problem = ""
        self._woken = asyncio.Event()
        self._sent = _Sent()
        self.addresses: tuple[str, ...] = ()
        self.kubelet_version = settings.kubelet_version
        self.local_problems: tuple[str, ...] = ()
        self.looked_at = time.monotonic()

    def __repr__(self) -> str:
        return f"<Reporter {self._settings.name} at {', '.join(self.addresses) or 'no address'}>"

    def wake(self) -> None:
        """Compute and send now: something that matters has changed."""
        self._woken.set()

    @property
    def problems(self) -> tuple[str, ...]:
        """All reasons against Ready."""
        own = filter(None, (self._address_problem, self._amounts_problem))
        return tuple(dict.fromkeys((*self.local_problems, *own, *self._sources.problems())))

    # --- computing ----------------------------------------------------------------------------------------------------

    async def look(self) -> Knowledge:
        """What is known of the node now; the conditions are still empty.

        Raises:
            WasmletError: The machine cannot be read, and never could be.
        """
        await self._find_addresses()
        return Knowledge(
            identity=self._identity,
            amounts=self._measured(),
            addresses=self.addresses,
            conditions=(),
            kubelet_version=self.kubelet_version,
            images=await self._sources.images(),
            volumes_in_use=self._sources.volumes_in_use(),
        )

    def rendered(self, knowledge: Knowledge, previous: Sequence[NodeCondition]) -> tuple[NodeStatus, list[NodeEvent]]:
        """The status, after one whose conditions were `previous`, and the events of what flipped."""
        moment = self._now()
        pressures = sustained(
            self._pressure_seen_at, pressed(knowledge.amounts, self._settings),
            moment=moment, seconds=self._settings.pressure_seconds,
        )  # fmt: skip
        health = Health(pressures=pressures, problems=self.problems, network=self._sources.network())
        conditions, events = assess(health, previous=previous, node=self._settings.name, now=to_text(moment))
        return render(dataclasses.replace(knowledge, conditions=conditions), self._settings), events

    def _measured(self) -> Amounts:
        """What the machine has; what it had last, with a reason against Ready, while it cannot be read."""
        try:
            self._amounts = machine.amounts(self._settings.directory)
            self._amounts_problem = ""
        except WasmletError as error:
            if self._amounts is None:
                raise
            self._amounts_problem = error.message
        return self._amounts

    async def _find_addresses(self) -> None:
        moment = asyncio.get_running_loop().time()
        if moment < self._addresses_due:
            return
        self._addresses_due = moment + ADDRESS_SECONDS
        try:
            self.addresses = await addresses.find(configured=self._settings.node_ips, name=self._settings.name)
            self._address_problem = ""
        except (UserError, RetryableError) as error:
            # The ones known stay: an interface that is down for a moment does not change who we are.
            self._address_problem = str(error)
            self._addresses_due = moment + ADDRESS_RETRY_SECONDS
        if self.addresses:
            self._on_addresses(self.addresses)

    # --- sending ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Report for ever; in the first two minutes at once when the node becomes Ready."""
        loop = asyncio.get_running_loop()
        hurry_until = loop.time() + self._settings.first_ready_seconds
        while True:
            self._woken.clear()
            self.looked_at = time.monotonic()
            was_ready = not self.problems  # what is solved while the status is sent is not in it yet
            try:
                await self.report()
            except WasmletError as error:
                level = self._client.level(logging.WARNING)
                logger.log(level, "status not sent: %s", error, extra={"node": self._settings.name})
            if was_ready:
                hurry_until = 0.0
            seconds = self._settings.status_seconds * random.uniform(1.0, 1.0 + JITTER)  # noqa: S311
            await self._pause(loop.time() + seconds, hurry_until)

    async def _pause(self, until: float, hurry_until: float) -> None:
        """Wait until `until`, until somebody wakes this, or, in a hurry, until nothing speaks against Ready."""
        loop = asyncio.get_running_loop()
        while (left := until - loop.time()) > 0:
            in_hurry = loop.time() < hurry_until
            if in_hurry and not self.problems:
                return
            try:
                async with asyncio.timeout(min(left, FIRST_READY_POLL_SECONDS) if in_hurry else left):
                    await self._woken.wait()
                return
            except TimeoutError:
                continue

    async def report(self) -> None:
        """Compute the status, and send it if it is due. The first attempt trusts the watch, later ones ask.

        Raises:
            WasmletError: It failed five times.
        """
        knowledge = await self.look()
        node = self._own.latest
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if node is None or attempt > 1:
                    node = await self._client.get(NODES, self._settings.name)
                await self._send(knowledge, node)
            except NotFoundError:
                return  # deleted: the watch sees it too, and registers
            except WasmletError:
                if attempt == ATTEMPTS:
                    raise
            else:
                return

    async def _send(self, knowledge: Knowledge, node: NodeObject) -> None:
        await self._assert_labels(node)
        status, events = self.rendered(knowledge, node.status.conditions)
        keeps_volumes = knowledge.volumes_in_use is None
        changed = changes(node.status, status, keeps_volumes=keeps_volumes)
        changed = {key: value for key, value in changed.items() if self._sent.ignored.get(key) != value}
        going = abandoned(Health(network=self._sources.network()), node.status.conditions)
        moment = asyncio.get_running_loop().time()
        if not changed and not going and moment - self._sent.at < self._settings.report_seconds + self._sent.offset:
            return
        answer = await self._client.patch(
            NODES, self._settings.name, patch_body(changed, status.conditions, abandoned=going),
            kind=Patch.STRATEGIC, subresource="status",
        )  # fmt: skip
        half = self._settings.report_seconds / 2
        self._sent = _Sent(
            at=moment,
            # After a change at many nodes at once (an API server that was away), their heartbeats are spread.
            offset=random.uniform(-half, half) if changed else 0.0,  # noqa: S311
            # An older server drops fields that it does not know; sending them each time would not help.
            ignored=changes(answer.status, status, keeps_volumes=keeps_volumes),
        )
        self._own.offer(answer)
        for event in events:
            self._record(event)

    async def _assert_labels(self, node: NodeObject) -> None:
        wrong = {
            key: value
            for key, value in managed_labels(self._settings).items()
            if node.metadata.labels.get(key) != value
        }
        if wrong:
            logger.warning("labels were changed; putting them back", extra={"labels": ", ".join(sorted(wrong))})
            self._own.offer(await patch_node(self._client, self._settings.name, {"metadata": {"labels": wrong}}))
