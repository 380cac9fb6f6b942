"""Keeping certificates fresh: the client's, which the agent is known by, and the one that port 10250 shows.

Both are renewed at a random point in 70 to 90 % of their life. `cryptography` is imported when the first is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wasmlet.base.clock import Clock, system_clock, to_text
from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.base.tasks import InterruptedWorkError, unless
from wasmlet.kube.client import Client
from wasmlet.node.store import Store

if TYPE_CHECKING:
    from wasmlet.node.keys import Certificate, Subject

__all__ = ["CLIENT_PREFIX", "ClientCertificate", "ServingCertificate", "rotation_moment"]

logger = logging.getLogger(__name__)

CLIENT_PREFIX: Final = "wasmlet-client"
SERVING_PREFIX: Final = "wasmlet-server"
ROTATION_SHARE: Final = (0.7, 0.9)
RETRY_SECONDS: Final = (2.0, 4.0, 8.0, 16.0, 32.0)
"""After each failed round; the last one goes on."""

DENIED_SECONDS: Final = 900.0
"""Somebody said no: asking again each half minute would only fill the list of requests."""

SHORTEST_SLEEP_SECONDS: Final = 0.001
LONGEST_SLEEP_SECONDS: Final = 60.0
"""A machine that was suspended, or whose clock was set, notices within that."""


def rotation_moment(not_before: float, not_after: float, *, share: float) -> float:
    """When to renew: `share`, from 0 to 1, chooses within 70 to 90 % of the life."""
    low, high = ROTATION_SHARE
    return not_before + (not_after - not_before) * (low + (high - low) * share)


async def sleep_until(moment: float, *, now: Clock) -> None:
    """Return when the wall clock has passed `moment`."""
    while (left := moment - now()) > 0:  # noqa: ASYNC110  # a clock has no event
        await asyncio.sleep(min(max(left, SHORTEST_SLEEP_SECONDS), LONGEST_SLEEP_SECONDS))


class ClientCertificate:
    """The certificate that `bootstrap` made, renewed.

    Args:
        client: Asks for the next one, by the present one.
        node: The node's name.
        on_new: Awaited after each renewal: `Client.rotate`, so that new connections use it.
        wait_seconds: How long an answer is waited for.
        begin_again: Makes another identity in the same place, by a bootstrap kubeconfig, when the present one was over
            before it could be renewed (a machine that was off for long); None: that is for a person.
        certificate_seconds: The life to ask for; None: what the signer gives.
        share: Gives numbers from 0 to 1.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        node: str,
        *,
        on_new: Callable[[], Awaitable[None]],
        begin_again: Callable[[], Awaitable[None]] | None = None,
        wait_seconds: float = 900.0,
        certificate_seconds: int | None = None,
        now: Clock = system_clock,
        share: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._store = store
        self._node = node
        self._on_new = on_new
        self._begin_again = begin_again
        self._wait_seconds = wait_seconds
        self._certificate_seconds = certificate_seconds
        self._now = now
        self._share = share

    def __repr__(self) -> str:
        return f"<ClientCertificate {self._store.current}>"

    async def run(self) -> None:
        """Renew for ever. What is wrong with the files is told and looked at again: it ends nothing that works."""
        while True:
            try:
                await self._once()
            except WasmletError as error:
                logger.error("client certificate not kept: %s", error, extra={"node": self._node})
                await asyncio.sleep(LONGEST_SLEEP_SECONDS)

    async def _once(self) -> None:
        from wasmlet.node import keys  # noqa: PLC0415

        pair = self._store.load()
        if pair is None:
            raise UserError(f"{self._store.current} is gone", hint="join again, or put it back")
        present = keys.certificate(pair)
        moment = rotation_moment(present.not_before, present.not_after, share=self._share())
        if present.not_before > self._now():
            # Whoever set the clock back, or has none yet: the API server refuses nothing, but our own renewal waits.
            logger.warning(
                "the client certificate is good from %s on; is this machine's clock right?", to_text(present.not_before)
            )
        logger.info(
            "client certificate",
            extra={"expires": to_text(present.not_after), "renewed_at": to_text(moment)},
        )
        await sleep_until(moment, now=self._now)
        await retried(lambda: self._renew(present.not_after), what="client certificate")

    async def _renew(self, until: float) -> None:
        from wasmlet.node import keys, signing  # noqa: PLC0415

        key = self._store.awaited_key(keys.new_key())
        try:
            answer = await signing.obtain(
                self._client,
                signing.CLIENT,
                keys.Subject(node=self._node),
                key,
                wait_seconds=self._wait_seconds,
                certificate_seconds=self._certificate_seconds,
            )
        except WasmletError as error:
            self._store.forget_key()  # the next round makes a new request
            if until > self._now():
                raise
            await self._replace(until, error)
            return
        self._store.save(answer, key, now=self._now())
        logger.info("client certificate renewed", extra={"node": self._node})
        await self._on_new()

    async def _replace(self, until: float, error: WasmletError) -> None:
        """It is over, so it cannot ask for the next one any more."""
        if self._begin_again is None:
            raise RetryableError(
                f"the client certificate was good until {to_text(until)} and cannot ask for the next one: {error}",
                hint="join again with a new token (wasmlet join), or start with --bootstrap-kubeconfig",
            ) from error
        logger.warning("the client certificate is over; asking for an identity anew", extra={"node": self._node})
        await self._begin_again()
        await self._on_new()


class ServingCertificate:
    """The certificate of the kubelet API: signed by the cluster once somebody approves it, self-signed until then.

    Args:
        on_new: Called with the PEM file (certificate, chain and key) each time that another one is to be shown.
        is_requested: Whether the cluster is asked; else it stays self-signed.
        certificate_seconds: The life to ask for.

    A request is kept as long as it is there, whatever the restarts; a kubelet makes a new one each quarter of an hour.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        node: str,
        *,
        on_new: Callable[[Path], None],
        is_requested: bool = True,
        certificate_seconds: int | None = None,
        now: Clock = system_clock,
        share: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._store = store
        self._node = node
        self._on_new = on_new
        self._is_requested = is_requested
        self._certificate_seconds = certificate_seconds
        self._now = now
        self._share = share
        self._addresses: tuple[str, ...] = ()
        self._changed = asyncio.Event()
        self._offered: bytes | None = None

    def __repr__(self) -> str:
        return f"<ServingCertificate {self._store.current} for {', '.join(self._addresses) or 'nobody yet'}>"

    def set_addresses(self, addresses: tuple[str, ...]) -> None:
        """Under which IPs the node is reached; another certificate is needed when they change."""
        if addresses != self._addresses:
            self._addresses = addresses
            self._changed.set()

    async def run(self) -> None:
        """Keep a certificate for the present addresses, for ever."""
        while True:
            self._changed.clear()
            try:
                await unless(self._changed, self._keep(), name="serving certificate")
            except InterruptedWorkError:
                logger.info("addresses changed", extra={"addresses": ", ".join(self._addresses)})
            except WasmletError as error:  # a full disk, say; what is shown now goes on being shown
                logger.error("serving certificate not kept: %s", error, extra={"node": self._node})
                await asyncio.sleep(LONGEST_SLEEP_SECONDS)

    async def _keep(self) -> None:
        from wasmlet.node import keys  # noqa: PLC0415

        if not self._addresses:
            await asyncio.Event().wait()  # until there are some: see run
        subject = keys.Subject(node=self._node, dns_names=(self._node,), ip_addresses=self._addresses)
        while True:
            present = self._present(subject)
            if present is None:
                present = self._sign_own(subject)
            self._offer()
            moment = rotation_moment(present.not_before, present.not_after, share=self._share())
            if self._is_requested and present.is_self_signed:
                moment = 0.0
            await sleep_until(moment, now=self._now)
            if self._is_requested:
                await retried(lambda: self._request(subject), what="serving certificate")
            else:
                self._sign_own(subject)

    def _present(self, subject: Subject) -> Certificate | None:
        """What is stored, if it is for these addresses and not over."""
        from wasmlet.node import keys  # noqa: PLC0415

        pair = self._store.load()
        try:
            present = keys.certificate(pair) if pair is not None else None
        except UserError:
            return None
        if present is None or present.not_after <= self._now() or present.common_name != subject.common_name:
            return None
        return present if present.names >= {*subject.dns_names, *subject.ip_addresses} else None

    def _sign_own(self, subject: Subject) -> Certificate:
        from wasmlet.node import keys  # noqa: PLC0415

        key = keys.new_key()
        pem = keys.self_signed(key, subject, now=self._now())
        self._store.save(pem, key, now=self._now(), is_awaiting=True)
        logger.info("serving certificate self-signed", extra={"node": self._node})
        return keys.certificate(pem)

    async def _request(self, subject: Subject) -> None:
        from wasmlet.node import keys, signing  # noqa: PLC0415

        key = self._store.awaited_key(keys.new_key())
        try:
            answer = await signing.obtain(
                self._client, signing.SERVING, subject, key, wait_seconds=None,
                certificate_seconds=self._certificate_seconds,
            )  # fmt: skip
        except WasmletError as error:
            if error.reason in (signing.DENIED, "Failed", "Deleted"):
                self._store.forget_key()
            raise
        self._store.save(answer, key, now=self._now())
        logger.info("serving certificate signed", extra={"node": self._node})

    def _offer(self) -> None:
        pair = self._store.load()
        if pair != self._offered:
            self._on_new(self._store.current)
            self._offered = pair  # not before: what could not be shown is offered again


async def retried(renew: Callable[[], Awaitable[None]], *, what: str) -> None:
    """Do `renew` until it succeeds."""
    failures = 0
    while True:
        try:
            await renew()
        except WasmletError as error:
            delay = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
            if error.reason == "Denied":
                delay = DENIED_SECONDS
            failures += 1
            logger.warning("%s not renewed: %s", what, error, extra={"retry_seconds": delay})
        else:
            return
        await asyncio.sleep(delay)
