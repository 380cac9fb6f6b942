"""Reflecting a part of the cluster: list, watch from there, list again when the server has forgotten that far back.

`watch_resource` gives a stream that never ends by itself:

    async with contextlib.aclosing(watch_resource(client, PODS, field_selector="spec.nodeName=n")) as events:
        async for event in events:
            match event:
                case Added(pod) | Modified(pod): ...
                case Deleted(pod): ...      # its last state
                case Synced(): ...          # from here on absence means absence
                case Unavailable(error): ...

Objects are known by uid: one that was deleted and made again under its name is Deleted and then Added, however much of
that was missed. A list that fails is told as `Unavailable` and never as an empty list.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from wasmlet.base.errors import RetryableError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import RESOURCE_VERSION_TOO_LARGE, ExpiredError
from wasmlet.kube.lists import BrokenError, Lines, decode_line, type_of_line
from wasmlet.kube.pace import BackOff
from wasmlet.kube.resources import Resource
from wasmlet.kube.types import ObjectMeta

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Added", "Change", "Deleted", "Modified", "Synced", "Unavailable", "watch_resource"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class _Delta(Generic[T]):
    object: T

    def __repr__(self) -> str:
        metadata = _metadata(self.object)  # no more: it may be a Secret
        return f"<{type(self).__name__} {type(self.object).__name__} {metadata.namespace}/{metadata.name}>"


class Added(_Delta[T]):
    """An object that was not there before, or was not known to be."""

    __slots__ = ()


class Modified(_Delta[T]):
    """A newer state of a known object; states in between may be missing."""

    __slots__ = ()


class Deleted(_Delta[T]):
    """An object is gone, or the selectors do not fit it any more; its last known state."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything there is has been told. Comes after each list, the first and later ones."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A list or watch failed and will be tried again by itself; what was told still is the best knowledge."""

    error: WasmletError


Change = Added[T] | Modified[T] | Deleted[T] | Synced | Unavailable


async def watch_resource(
    client: Client,
    resource: Resource[T],
    *,
    namespace: str = "",
    label_selector: str = "",
    field_selector: str = "",
    is_fresh: bool = False,
    first_retry_seconds: float | None = None,
) -> AsyncGenerator[Change[T], None]:
    """The objects that the selectors fit, and every change of them, until the caller closes it.

    The stream is not read ahead: a slow consumer slows the server down, and a very slow one makes it cut the watch.

    Args:
        namespace: Empty: of the whole cluster.
        is_fresh: The first list is asked from etcd, not from the server's cache. Cheap for a single name, dear for
            a selector over many objects.
        first_retry_seconds: The wait after a first failure; None: as the settings say.

    Raises:
        WasmletError: Nothing that the server or the network does; only wasmlet's own mistakes.
    """
    reflector = Reflector(client, resource, namespace, label_selector, field_selector, is_fresh=is_fresh)
    first, longest = client.settings.watch_retry_seconds
    back_off = BackOff(first_seconds=first_retry_seconds or first, max_seconds=longest)
    while True:
        try:
            if not reflector.version:
                async with contextlib.aclosing(reflector.list()) as events:
                    async for event in events:
                        yield event
            async with contextlib.aclosing(reflector.watch()) as changes:
                async for change in changes:
                    back_off.reset()
                    if change is not None:
                        yield change
            if reflector.is_productive:
                continue
            error: WasmletError = RetryableError(f"cannot {reflector.what}: it ended at once, again and again")
        except WasmletError as caught:
            error = caught
        if reflector.forgives(error):
            continue
        level = client.level(logging.INFO)
        logger.log(level, "watch interrupted: %s", error.message, extra={"resource": resource.plural})
        yield Unavailable(error)
        await asyncio.sleep(max(back_off.next(), getattr(error, "retry_after_seconds", None) or 0.0))


class Reflector(Generic[T]):
    """The state of one `watch_resource`: the objects known, and the version up to which they are.

    Attributes:
        version: Where a watch can go on; empty: a list is needed.
        known: The last state of each object, by uid.
        is_productive: The present (or last) watch has said something, a bookmark at least, or lived its time.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource[T],
        namespace: str,
        label_selector: str,
        field_selector: str,
        *,
        is_fresh: bool,
    ) -> None:
        self._client = client
        self._resource = resource
        self._namespace = namespace
        self._selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        self._list_version = "" if is_fresh else "0"
        self.what = f"watch {resource.plural}" + (f" in {namespace}" if namespace else "")
        self.version = ""
        self.known: dict[str, T] = {}
        self.is_productive = False
        self._has_expired = False  # since the last word of a watch

    def __repr__(self) -> str:
        return f"<Reflector {self.what} at {self.version or 'nothing'}: {len(self.known)} objects>"

    def forgives(self, error: WasmletError) -> bool:
        """Whether to go on at once after `error`; changes the state so that the next try is another one."""
        if isinstance(error, ExpiredError):
            # The server has forgotten this version. Where even the list was refused for it, only the newest is left.
            self._list_version, self.version = self.version, ""
            is_first, self._has_expired = not self._has_expired, True
            return is_first and bool(self._list_version)
        if error.reason == RESOURCE_VERSION_TOO_LARGE:
            # Another API server that lags, or an etcd restored from a backup: take what it has.
            self._list_version = self.version = ""
            return False
        # A watch that worked and was cut goes on at once; the next failure waits.
        was_productive, self.is_productive = self.is_productive, False
        return was_productive and isinstance(error, RetryableError)

    # --- list ---------------------------------------------------------------------------------------------------------

    async def list(self) -> AsyncGenerator[Change[T], None]:
        """List, and tell the differences to what was known."""
        self.is_productive = False
        listed = await self._client.list(
            self._resource,
            namespace=self._namespace,
            label_selector=self._selectors["labelSelector"],
            field_selector=self._selectors["fieldSelector"],
            resource_version=self._list_version,
        )
        present = {_key(each): each for each in listed.items}
        for each in listed.broken:
            _log_broken(self._resource, _metadata(each), "its list")
        broken = {_key(each) for each in listed.broken}
        for key in [key for key in self.known if key not in present and key not in broken]:
            yield Deleted(self.known.pop(key))
        for key, item in present.items():
            before = self.known.get(key)
            if before is None or _version(before) != _version(item):
                self.known[key] = item
                yield Added(item) if before is None else Modified(item)
        self.version = self._list_version = listed.resource_version
        yield Synced()

    # --- watch --------------------------------------------------------------------------------------------------------

    async def watch(self) -> AsyncGenerator[Change[T] | None, None]:
        """Watch from `version` until the server ends it; None where something came that nobody needs to hear.

        Raises:
            ExpiredError: The server does not remember that far.
            RetryableError: Cut, or silent for too long.
        """
        settings = self._client.settings
        seconds = random.uniform(*settings.watch_seconds)  # noqa: S311  # spreads the reconnects of a cluster
        query = {
            **self._selectors,
            "watch": "true",
            "resourceVersion": self.version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        self.is_productive = False
        began = asyncio.get_running_loop().time()
        try:
            async with self._client.stream(
                self._resource.collection(self._namespace),
                query=query,
                what=self.what,
                idle_seconds=settings.watch_idle_seconds,
            ) as content:
                async for line in _lines(content, settings.max_object_bytes):
                    change = self._change(line)
                    self.is_productive, self._has_expired = True, False
                    yield change
        finally:
            lived = asyncio.get_running_loop().time() - began
            self.is_productive = self.is_productive or lived >= SHORT_SECONDS

    def _change(self, line: bytes) -> Change[T] | None:
        """What a line says; keeps `known` and `version`.

        Raises:
            WasmletError: An ERROR: what it holds.
        """
        try:
            kind, item = decode_line(line, self._resource)
        except BrokenError as error:
            return self._broken(error, type_of_line(line))
        if item is None:
            self.version = kind
            return None
        key = _key(item)
        self.version = _version(item) or self.version
        if kind == "DELETED":
            # An object that nobody was told of can still be one that was broken until now.
            self.known.pop(key, None)
            return Deleted(item)
        is_known = key in self.known
        self.known[key] = item
        return Modified(item) if is_known else Added(item)

    def _broken(self, error: BrokenError, kind: str) -> Change[T] | None:
        self.version = error.metadata.resource_version or self.version
        before = self.known.get(error.metadata.uid)
        if kind == "DELETED" and before is not None:
            return Deleted(self.known.pop(error.metadata.uid))
        _log_broken(self._resource, error.metadata, str(error))
        return None


SHORT_SECONDS: Final = 1.0
"""A watch that ends before, and without a word, has failed (client-go: very short watch)."""

LINES_AT_ONCE: Final = 25
"""Between two looks at the event loop: a burst that is already here must not keep everybody else waiting."""


async def _lines(content: aiohttp.StreamReader, limit: int) -> AsyncGenerator[bytes, None]:
    """The lines of a body. Nobody needs to close it: it holds nothing."""
    lines = Lines(limit)
    async for chunk in content.iter_any():
        for position, line in enumerate(lines.feed(chunk)):
            if position % LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
            yield line


def _metadata(item: msgspec.Struct) -> ObjectMeta:
    metadata: ObjectMeta = item.metadata  # type: ignore[attr-defined]
    return metadata


def _version(item: msgspec.Struct) -> str:
    return _metadata(item).resource_version


def _key(item: msgspec.Struct) -> str:
    metadata = _metadata(item)
    return metadata.uid or f"{metadata.namespace}/{metadata.name}"


def _log_broken(resource: Resource[Any], metadata: ObjectMeta, problem: str) -> None:
    logger.warning(
        "object not understood, its last known state stays: %s",
        problem,
        extra={"resource": resource.plural, "object": f"{metadata.namespace}/{metadata.name}"},
    )
