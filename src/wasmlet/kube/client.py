"""The one way to the API server: typed requests, limited in rate, tried again where the server says "later".

`Client` is made from an `Access` (kubeconfig); everything else in this room, and all rooms above, talk through it.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from wasmlet.base.errors import WasmletError
from wasmlet.kube.calls import Calls
from wasmlet.kube.kubeconfig import Access
from wasmlet.kube.lists import Page, decode_page, decoder_for
from wasmlet.kube.pace import Limiter
from wasmlet.kube.resources import Resource
from wasmlet.kube.settings import Settings

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Client", "Listed", "Patch"]

T = TypeVar("T", bound=msgspec.Struct)
A = TypeVar("A", bound=msgspec.Struct)


class Patch(enum.Enum):
    """What a patch's body is, by its media type."""

    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """All objects that a list gave, and the version of the whole, from which a watch can go on.

    Attributes:
        broken: Objects that cannot be understood, as far as that goes: only their metadata is set.
    """

    items: tuple[T, ...]
    resource_version: str
    broken: tuple[T, ...] = ()


class Client:
    """An API server, seen by one identity. Make it anywhere, use it on one event loop, `close` it there.

    Every method raises what `errors.failure` gives for the server's answer, `RetryableError` when there is none, and
    `UserError` when TLS or the kubeconfig is wrong.
    """

    def __init__(self, access: Access, *, settings: Settings | None = None, calls: Calls | None = None) -> None:
        self.settings = settings or Settings()
        self._access = access
        self._calls = calls or Calls.to(access, self.settings)

    def __repr__(self) -> str:
        return f"<Client of {self._access.server}>"

    @property
    def namespace(self) -> str:
        """The kubeconfig's namespace, "default" when it names none."""
        return self._access.namespace or "default"

    def sharing(
        self, *, queries_per_second: float | None, burst: int = 1, timeout_seconds: float | None = None
    ) -> Client:
        """A client on the same connections with limits of its own: leases and events must not wait behind pods.

        Args:
            queries_per_second: None: no limit (heartbeats).
            timeout_seconds: For a whole request; None: as the settings say.
        """
        limiter = None if queries_per_second is None else Limiter(rate=queries_per_second, burst=burst)
        calls = self._calls.sharing(limiter=limiter, timeout_seconds=timeout_seconds)
        return Client(self._access, settings=self.settings, calls=calls)

    def level(self, usual: int) -> int:
        """At which level to tell of a failed request: `usual`, or DEBUG while the API server is away.

        That it is away is told once by the client itself; what fails because of it would drown everything else.
        """
        return self._calls.level(usual)

    async def close(self) -> None:
        """End every request, watch and connection, those of the clients that share them too. Idempotent."""
        await self._calls.close()

    async def rotate(self, access: Access | None = None) -> None:
        """Use new credentials from now on: see `Connection.rotate`.

        Args:
            access: None: the old one, whose files are read anew.
        """
        await self._calls.rotate(access)

    # --- objects ------------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource[T], name: str, *, namespace: str = "", subresource: str = "") -> T:
        """The object as it is now (never from a cache that lags)."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self._object(resource, "GET", path, what=_what("get", resource, namespace, name))

    async def list(
        self,
        resource: Resource[T],
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
    ) -> Listed[T]:
        """All objects that the selectors fit, read page by page.

        Args:
            namespace: Empty: of the whole cluster.
            resource_version: Empty: the newest, asked from etcd; "0": whatever the server's cache has, which is
                cheap; another: at least as new as that.

        Raises:
            ExpiredError: The list changed too much between two pages: begin again.
        """
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        what = _what("list", resource, namespace)
        query = {**selectors, "resourceVersion": resource_version, "limit": str(self.settings.page_size)}
        if resource_version not in ("", "0"):
            query["resourceVersionMatch"] = "NotOlderThan"
        items, broken = [], []
        while True:
            content = await self.raw("GET", resource.collection(namespace), query=query, what=what)
            page: Page[T] = await decode_page(content, resource)
            items += page.items
            broken += page.broken
            if not page.next:
                return Listed(tuple(items), page.resource_version, tuple(broken))
            query = {**selectors, "limit": str(self.settings.page_size), "continue": page.next}

    async def create(self, resource: Resource[T], body: T, *, namespace: str = "") -> T:
        """POST a new object; the answer is what the server made of it.

        Raises:
            AlreadyExistsError: There is one of that name.
        """
        metadata = _metadata(body)
        what = _what("create", resource, namespace, metadata.name or metadata.generate_name)
        return await self._object(resource, "POST", resource.collection(namespace), what=what, body=body)

    async def update(self, resource: Resource[T], body: T, *, namespace: str = "", subresource: str = "") -> T:
        """PUT an object over the one of its name.

        The structs hold only a part of an object's fields; what they do not know is lost. So use it where wasmlet owns
        the whole object (Lease), and `patch` elsewhere.

        Raises:
            OutdatedError: `metadata.resourceVersion` is set, and is not the present one.
        """
        name = _metadata(body).name
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        return await self._object(resource, "PUT", path, what=_what("update", resource, namespace, name), body=body)

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        body: object,
        *,
        kind: Patch = Patch.STRATEGIC,
        namespace: str = "",
        subresource: str = "",
    ) -> T:
        """Change a part of an object.

        Args:
            body: What JSON can hold, or structs.

        Raises:
            OutdatedError: The patch names a resourceVersion or uid, and it is another.
        """
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        what = _what("patch", resource, namespace, name)
        return await self._object(resource, "PATCH", path, what=what, body=body, content_type=kind.value)

    async def delete(
        self,
        resource: Resource[Any],
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        grace_seconds: int | None = None,
    ) -> None:
        """Ask for an object's end; a pod with a grace only gets its deletionTimestamp by that.

        Args:
            uid: Delete only this one; empty: whatever has the name.
            grace_seconds: gracePeriodSeconds; 0 removes a pod at once; None: the object's own.

        Raises:
            OutdatedError: The object has another uid.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        path = resource.path(namespace=namespace, name=name)
        what = _what("delete", resource, namespace, name)
        await self.raw("DELETE", path, body=msgspec.json.encode(options), what=what)

    async def post_subresource(
        self,
        resource: Resource[Any],
        name: str,
        subresource: str,
        body: object,
        *,
        namespace: str = "",
        answer: type[A],
    ) -> A:
        """POST to a subresource that has a type of its own: token, eviction, binding, approval."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        what = _what("create", resource, namespace, f"{name}/{subresource}")
        content = await self.raw("POST", path, body=msgspec.json.encode(body), what=what)
        return _decoded(content, answer, what)

    async def _object(
        self,
        resource: Resource[T],
        method: str,
        path: str,
        *,
        what: str,
        body: object = None,
        content_type: str = "application/json",
    ) -> T:
        encoded = None if body is None else _encoded(body, resource)
        content = await self.raw(method, path, body=encoded, content_type=content_type, what=what)
        return _decoded(content, resource.type, what)

    # --- bytes --------------------------------------------------------------------------------------------------------

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        what: str = "",
    ) -> bytes:
        """The body of a successful answer to anything: /healthz, /version. Arguments as in `Calls.raw`."""
        return await self._calls.raw(method, path, query=query, body=body, content_type=content_type, what=what)

    def stream(
        self, path: str, *, query: Mapping[str, str], what: str, idle_seconds: float
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.StreamReader]:
        """The body of an answer that goes on and on (a watch). See `Calls.stream`."""
        return self._calls.stream(path, query=query, what=what, idle_seconds=idle_seconds)


def _what(verb: str, resource: Resource[Any], namespace: str, name: str = "") -> str:
    named = "/".join(each for each in (namespace, name) if each)
    return f"{verb} {resource.plural} {named}".rstrip()


def _encoded(body: object, resource: Resource[Any]) -> bytes:
    """JSON. A struct leaves out what has its default, so its own version and kind are put back."""
    if isinstance(body, msgspec.Struct):
        kind = {"apiVersion": resource.group_version, "kind": getattr(body, "kind", resource.type.__name__)}
        body = {**msgspec.to_builtins(body), **kind}
    return msgspec.json.encode(body)


def _metadata(body: msgspec.Struct) -> Any:
    return body.metadata  # type: ignore[attr-defined]


def _decoded(content: bytes, kind: type[T], what: str) -> T:
    try:
        return decoder_for(kind).decode(content)
    except msgspec.DecodeError as error:
        raise WasmletError(f"cannot {what}: the answer is not understood: {error}") from None
