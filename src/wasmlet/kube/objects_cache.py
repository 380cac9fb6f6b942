"""ConfigMaps and Secrets of a cluster: `Objects`, by one watch for each object that a pod here refers to.

A node may read only those (Node authorizer), each by its name. A watch costs a connection, so there are at most
`max_watches`; what is beyond is read again each minute, until a place gets free. What was read stays good while the
API server is away. An immutable object is read once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from wasmlet.base.errors import NotFoundError, RetryableError, WasmletError
from wasmlet.base.tasks import Tasks
from wasmlet.kube.client import Client
from wasmlet.kube.errors import ForbiddenError
from wasmlet.kube.patience import GRACE_SECONDS, RETRY_SECONDS, while_forbidden
from wasmlet.kube.resources import CONFIG_MAPS, SECRETS, Resource
from wasmlet.kube.types import ConfigMap, Secret
from wasmlet.kube.watch import Added, Deleted, Modified, Synced, Unavailable, watch_resource

__all__ = ["CacheSettings", "ClusterObjects", "Kind"]

logger = logging.getLogger(__name__)

Kind = Literal["ConfigMap", "Secret"]
_RESOURCES: Final[dict[Kind, Resource[Any]]] = {"ConfigMap": CONFIG_MAPS, "Secret": SECRETS}

FAILED_POLL_SECONDS: Final = 10.0
"""How soon an object beyond the watches is asked for again when there was no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """How objects are followed.

    Attributes:
        max_watches: Objects that are watched; each is a TLS connection (40 to 290 KiB here, some 50 there).
            Default 64.
        poll_seconds: How old the others may get. Default 60, a kubelet's TTL.
        forbidden_seconds: How long a 403 is taken for the authorizer's lag after the first use. Default 5.
        absent_seconds: How long an object may be missing after the first use before it counts: the one that makes
            kube-root-ca.crt may be as fast as the one that binds. Default 1.
        answer_seconds: How long a reader waits for the first answer of all. Default 15.
    """

    max_watches: int = 64
    poll_seconds: float = 60.0
    forbidden_seconds: float = GRACE_SECONDS
    absent_seconds: float = 1.0
    answer_seconds: float = 15.0


class _Entry:
    """One object and the pods that use it.

    Attributes:
        object: The last known state; None: absent, or not known yet.
        error: Why nothing is known; None: an answer came, and absence is one.
        settled: Readers need not wait any longer.
        is_final: It cannot change.
    """

    def __init__(self, kind: Kind, namespace: str, name: str) -> None:
        self.kind: Kind = kind
        self.namespace = namespace
        self.name = name
        self.users: set[str] = set()
        self.began = asyncio.get_running_loop().time()
        self.object: ConfigMap | Secret | None = None
        self.error: WasmletError | None = None
        self.settled = asyncio.Event()
        self.is_final = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "unknown" if not self.settled.is_set() else "present" if self.object is not None else "missing"
        return f"<{self.kind} {self.namespace}/{self.name}: {state}, {len(self.users)} users>"

    @property
    def resource(self) -> Resource[Any]:
        return _RESOURCES[self.kind]

    def settle_at(self, seconds: float) -> None:
        """Let readers know what is known now, but not before `seconds` after the first use."""
        if self.timer is not None:
            self.timer.cancel()
        loop = asyncio.get_running_loop()
        self.timer = None
        if loop.time() >= self.began + seconds:
            self.settled.set()
        elif not self.settled.is_set():
            self.timer = loop.call_at(self.began + seconds, self.settled.set)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()


_Key = tuple[str, str, str]


class ClusterObjects:
    """See `kube.objects.Objects`. Use it on one event loop, `close` it there.

    Args:
        on_change: Called with a pod's uid when an object that it uses has changed, appeared or vanished after it was
            first read. Must return at once.
    """

    def __init__(
        self,
        client: Client,
        *,
        on_change: Callable[[str], None] | None = None,
        settings: CacheSettings | None = None,
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._settings = settings or CacheSettings()
        self._entries: dict[_Key, _Entry] = {}
        self._tasks = Tasks()
        self.watches = 0

    def __repr__(self) -> str:
        return f"<ClusterObjects {len(self._entries)} objects, {self.watches} watches>"

    async def close(self) -> None:
        """Follow nothing any more."""
        for entry in self._entries.values():
            entry.stop()
        self._entries.clear()
        await self._tasks.close()

    # --- users --------------------------------------------------------------------------------------------------------

    def acquire(self, uid: str, kind: Kind, namespace: str, name: str) -> None:
        """The pod uses the object from now on. Idempotent."""
        key = kind, namespace, name
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(kind, namespace, name)
        elif uid not in entry.users and entry.error is not None:
            # What was refused to another pod may be allowed for this one; the old try may wait for long.
            entry.stop()
            users, entry = entry.users, _Entry(kind, namespace, name)
            entry.users |= users
            self._entries[key] = entry
        entry.users.add(uid)
        if entry.task is None:
            entry.task = self._tasks.start(self._follow(entry), name=f"{kind} {namespace}/{name}")

    def release(self, uid: str) -> None:
        """The pod uses nothing any more; what nobody else uses is forgotten. Idempotent."""
        for key, entry in list(self._entries.items()):
            entry.users.discard(uid)
            if not entry.users:
                entry.stop()
                del self._entries[key]

    async def config_map(self, namespace: str, name: str) -> ConfigMap:
        """See `Objects`. One that nobody acquired is read from the API server each time."""
        found = await self._read("ConfigMap", namespace, name)
        assert isinstance(found, ConfigMap)
        return found

    async def secret(self, namespace: str, name: str) -> Secret:
        """See `Objects`. One that nobody acquired is read from the API server each time."""
        found = await self._read("Secret", namespace, name)
        assert isinstance(found, Secret)
        return found

    async def _read(self, kind: Kind, namespace: str, name: str) -> ConfigMap | Secret:
        what = f'{kind.lower()} "{name}"'
        entry = self._entries.get((kind, namespace, name))
        if entry is None:
            return await self._read_now(kind, namespace, name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.answer_seconds):
                await entry.settled.wait()
        if entry.object is not None:
            return entry.object
        if entry.error is not None:
            raise _repeated(entry.error)
        if not entry.settled.is_set():
            raise RetryableError(f"{what} is not known yet: the API server does not answer")
        raise NotFoundError(f"{what} not found", reason="NotFound")

    async def _read_now(self, kind: Kind, namespace: str, name: str) -> ConfigMap | Secret:
        try:
            found: ConfigMap | Secret = await while_forbidden(
                lambda: self._client.get(_RESOURCES[kind], name, namespace=namespace),
                seconds=self._settings.forbidden_seconds,
            )
        except NotFoundError:
            raise NotFoundError(f'{kind.lower()} "{name}" not found', reason="NotFound") from None
        return found

    # --- following ----------------------------------------------------------------------------------------------------

    async def _follow(self, entry: _Entry) -> None:
        """Keep one object up to date, until cancelled or it is final."""
        while not entry.is_final:
            if self.watches < self._settings.max_watches:
                self.watches += 1
                try:
                    await self._watch(entry)
                finally:
                    self.watches -= 1
            else:
                await self._poll(entry)

    async def _watch(self, entry: _Entry) -> None:
        changes = watch_resource(
            self._client,
            entry.resource,
            namespace=entry.namespace,
            field_selector=f"metadata.name={entry.name}",
            is_fresh=True,
            first_retry_seconds=RETRY_SECONDS,
        )
        async with contextlib.aclosing(changes) as events:
            async for event in events:
                match event:
                    case Added(found) | Modified(found):
                        self._know(entry, found)
                    case Deleted(_):
                        self._know(entry, None)
                    case Synced():
                        if entry.object is None:
                            self._know(entry, None)
                    case Unavailable(error):
                        self._miss(entry, error)
                if entry.is_final:
                    return

    async def _poll(self, entry: _Entry) -> None:
        """Read it once, and wait until it is time to read it again."""
        try:
            self._know(entry, await self._read_now(entry.kind, entry.namespace, entry.name))
        except NotFoundError:
            self._know(entry, None)
        except WasmletError as error:
            self._miss(entry, error)
        if not entry.is_final:
            await asyncio.sleep(self._pause(entry) * random.uniform(0.9, 1.1))  # noqa: S311  # not all at one moment

    def _pause(self, entry: _Entry) -> float:
        if not entry.settled.is_set():
            return self._settings.absent_seconds
        seconds = self._settings.poll_seconds
        return seconds if entry.error is None else min(seconds, FAILED_POLL_SECONDS)

    def _know(self, entry: _Entry, found: ConfigMap | Secret | None) -> None:
        """An answer: the object, or that there is none."""
        is_same = _version(found) == _version(entry.object) and entry.error is None
        is_news = entry.settled.is_set() and not is_same
        entry.object, entry.error = found, None
        entry.is_final = found is not None and found.immutable is True
        entry.settle_at(0.0 if found is not None else self._settings.absent_seconds)
        if is_news:
            self._tell(entry)

    def _miss(self, entry: _Entry, error: WasmletError) -> None:
        """No answer; what was known stays good."""
        if entry.object is None:
            entry.error = error
            entry.settle_at(self._settings.forbidden_seconds if isinstance(error, ForbiddenError) else 0.0)

    def _tell(self, entry: _Entry) -> None:
        for uid in list(entry.users):
            try:
                if self._on_change is not None:
                    self._on_change(uid)
            except Exception:
                logger.exception("telling a pod of a change failed", extra={"pod": uid})


def _version(found: ConfigMap | Secret | None) -> str:
    return found.metadata.resource_version if found is not None else ""


def _repeated(error: WasmletError) -> RetryableError:
    """A new error for each reader: one that is raised twice gathers the tracebacks of both."""
    seconds = error.retry_after_seconds if isinstance(error, RetryableError) else None
    return RetryableError(error.message, hint=error.hint, reason=error.reason, retry_after_seconds=seconds)
