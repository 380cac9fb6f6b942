"""An API server in the test's own process: real HTTP, with TLS if wanted, on port 0; does what it is told, badly too.

Knows any resource without declaring it: lists with pages and selectors, watches with bookmarks and versions that can
be forgotten, merge patches (also for strategic and apply), preconditions, token requests.
"""

import asyncio
import contextlib
import functools
import json
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web

from wasmlet.kube.kubeconfig import Access
from wasmlet.kube.settings import Settings

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
Document = dict[str, Any]

IMPATIENT = Settings(
    queries_per_second=10_000,
    burst=1000,
    connect_timeout_seconds=5,
    timeout_seconds=5,
    attempts=3,
    retry_delay_seconds=0.01,
    max_retry_after_seconds=2,
    watch_idle_seconds=5,
    watch_retry_seconds=(0.01, 0.05),
    page_size=3,
)
"""What a client of it is given: short waits, small pages."""


@dataclass
class Seen:
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class _Collection:
    objects: dict[tuple[str, str], Document] = field(default_factory=dict)
    history: list[tuple[int, str, Document]] = field(default_factory=list)


class FakeApi:
    """`behaviours` are asked in order before a request is answered properly; `seen` keeps every request."""

    def __init__(self) -> None:
        self.url = ""
        self.version = 100
        self.oldest = 0
        self.behaviours: list[Behaviour] = []
        self.seen: list[Seen] = []
        self.token_seconds: int | None = None
        self.tokens = 0
        self.now: Callable[[], float] = lambda: 0.0
        self.watching: set[web.StreamResponse] = set()
        self._collections: dict[str, _Collection] = {}
        self._news = asyncio.Condition()
        self._requests: dict[web.StreamResponse, web.Request] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, *, tls: ssl.SSLContext | None = None) -> AsyncIterator["FakeApi"]:
        api = cls()
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{tail:.*}", api._answer)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        api.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield api
        finally:
            await runner.cleanup()

    @property
    def access(self) -> Access:
        """For plain HTTP."""
        return Access(source="the test", server=self.url)

    def asked(self, method: str = "", *, watch: bool | None = None) -> list[Seen]:
        """The requests so far."""
        wanted = [each for each in self.seen if method in ("", each.method)]
        return [each for each in wanted if watch is None or ("watch" in each.query) == watch]

    # --- what a cluster does ------------------------------------------------------------------------------------------

    async def put(self, resource: str, document: Document) -> Document:
        """Create or replace, as another client would. `resource` is the plural."""
        metadata = document.setdefault("metadata", {})
        key = metadata.get("namespace", ""), metadata["name"]
        before = self._of(resource).objects.get(key)
        metadata["uid"] = metadata.get("uid") or (before["metadata"]["uid"] if before else str(uuid.uuid4()))
        await self._store(resource, key, document, "MODIFIED" if before else "ADDED")
        return document

    async def remove(self, resource: str, name: str, *, namespace: str = "") -> None:
        await self._drop(resource, (namespace, name))

    async def forget(self) -> None:
        """etcd was compacted: no version but the present one is known any more."""
        async with self._news:
            self.version += 1
            self.oldest = self.version
            for each in self._collections.values():
                each.history.clear()
            self._news.notify_all()

    async def bookmark(self) -> None:
        """Tell all watches the present version."""
        line = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)},
                                               "spec": {"containers": None}}}  # fmt: skip
        await self.send(json.dumps(line).encode() + b"\n")

    async def send(self, content: bytes) -> None:
        """Write anything to all watches."""
        for each in list(self.watching):
            await each.write(content)

    def cut(self) -> None:
        """End all watches as a dying server does."""
        for each in list(self.watching):
            transport = self._requests[each].transport
            if transport is not None:
                transport.abort()

    # --- answering ----------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query, headers = dict(request.query), dict(request.headers)
        self.seen.append(Seen(request.method, request.path, query, headers, await request.read()))
        for behaviour in list(self.behaviours):
            if (response := await behaviour(request)) is not None:
                return response
        parts = request.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if parts and parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        if not parts:
            return web.json_response({"gitVersion": "v1.36.0"})
        resource, name, subresource = (*parts, "", "")[:3]
        if request.method == "GET" and not name:
            return await self._list_or_watch(request, resource, namespace)
        if subresource == "token":
            return await self._token(request)
        return await self._one(request, resource, (namespace, name))

    async def _one(self, request: web.Request, resource: str, key: tuple[str, str]) -> web.StreamResponse:
        objects = self._of(resource).objects
        if request.method == "POST":
            document = await request.json()
            key = key[0], document["metadata"].get("name") or document["metadata"]["generateName"] + "abcde"
            if key in objects:
                return status(409, "AlreadyExists", f'{resource} "{key[1]}" already exists')
            document["metadata"] |= {"name": key[1], "namespace": key[0], "uid": str(uuid.uuid4())}
            return web.json_response(await self._store(resource, key, document, "ADDED"), status=201)
        present = objects.get(key)
        if present is None:
            return status(404, "NotFound", f'{resource} "{key[1]}" not found')
        if request.method == "GET":
            return web.json_response(present)
        body = json.loads(await request.read() or b"{}")
        wanted = body.get("metadata", {}) | body.get("preconditions", {})
        for name, value in (("uid", wanted.get("uid")), ("resourceVersion", wanted.get("resourceVersion"))):
            if value and present["metadata"][name] != value:
                if request.method == "PATCH" and name == "uid":  # as a real one does
                    causes = [{"field": "metadata.uid", "message": "field is immutable"}]
                    return status(422, "Invalid", "metadata.uid: field is immutable", causes=causes)
                return status(409, "Conflict", f"the {name} is {present['metadata'][name]}, not {value}")
        if request.method == "DELETE":
            await self._drop(resource, key)
            return status(200, "", "")
        is_strategic = request.content_type == "application/strategic-merge-patch+json"
        if is_strategic and "conditions" in body.get("status", {}):
            before = present.get("status", {}).get("conditions", [])
            body["status"]["conditions"] = merge_by_type(before, body["status"]["conditions"])
        merged = merge(present, body) if request.method == "PATCH" else body
        merged["metadata"] |= {"uid": present["metadata"]["uid"]}
        return web.json_response(await self._store(resource, key, merged, "MODIFIED"))

    async def _token(self, request: web.Request) -> web.Response:
        from wasmlet.base import clock

        document = await request.json()
        self.tokens += 1
        life = self.token_seconds or document["spec"]["expirationSeconds"]
        document["spec"]["expirationSeconds"] = life
        document["status"] = {
            "token": f"token-{self.tokens}", "expirationTimestamp": clock.to_text(self.now() + life),
        }  # fmt: skip
        return web.json_response(document, status=201)

    async def _list_or_watch(self, request: web.Request, resource: str, namespace: str) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request, resource, namespace)
        found = [
            each for (where, _), each in sorted(self._of(resource).objects.items())
            if namespace in ("", where) and fits(request, each)
        ]  # fmt: skip
        start, version = 0, self.version
        if token := request.query.get("continue"):
            start, version = (int(each) for each in token.split("-"))
            if version < self.oldest:
                return status(410, "Expired", "The provided continue parameter is too old")
        limit = int(request.query.get("limit", "0")) if request.query.get("resourceVersion") != "0" else 0
        end = start + limit if limit else len(found)
        metadata: Document = {"resourceVersion": str(version)}
        if end < len(found):
            metadata["continue"] = f"{end}-{version}"
        items = [{key: value for key, value in each.items() if key not in ("kind", "apiVersion")} for each in found]
        return web.json_response({"kind": "List", "metadata": metadata, "items": items[start:end]})

    async def _watch(self, request: web.Request, resource: str, namespace: str) -> web.StreamResponse:
        at = int(request.query["resourceVersion"])
        if at < self.oldest:
            return status(410, "Expired", f"too old resource version: {at} ({self.oldest})")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        self.watching.add(response)
        self._requests[response] = request
        try:
            while True:
                for version, kind, document in list(self._of(resource).history):
                    if version > at and namespace in ("", document["metadata"].get("namespace", "")):
                        at = version
                        if fits(request, document):
                            await response.write(event(kind, document))
                if at < self.oldest:
                    await response.write(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired",
                                                         "status": "Failure", "message": "too old"}))  # fmt: skip
                    return response
                async with self._news:
                    await self._news.wait_for(functools.partial(self._has_news, resource, at))
        finally:
            self.watching.discard(response)
            del self._requests[response]

    def _has_news(self, resource: str, at: int) -> bool:
        history = self._of(resource).history
        return at < self.oldest or (bool(history) and history[-1][0] > at)

    def _of(self, resource: str) -> _Collection:
        return self._collections.setdefault(resource, _Collection())

    async def _store(self, resource: str, key: tuple[str, str], document: Document, kind: str) -> Document:
        async with self._news:
            self.version += 1
            document["metadata"]["resourceVersion"] = str(self.version)
            self._of(resource).objects[key] = document
            self._of(resource).history.append((self.version, kind, json.loads(json.dumps(document))))
            self._news.notify_all()
        return document

    async def _drop(self, resource: str, key: tuple[str, str]) -> None:
        async with self._news:
            self.version += 1
            document = self._of(resource).objects.pop(key)
            document = document | {"metadata": document["metadata"] | {"resourceVersion": str(self.version)}}
            self._of(resource).history.append((self.version, "DELETED", document))
            self._news.notify_all()


def event(kind: str, document: Document) -> bytes:
    """A line of a watch, as Go writes it."""
    return json.dumps({"type": kind, "object": document}, separators=(",", ":")).encode() + b"\n"


def status(
    code: int, reason: str, message: str, *, headers: dict[str, str] | None = None, **details: object
) -> web.Response:
    """A Status document."""
    word = "Failure" if code >= 400 else "Success"
    document = {"kind": "Status", "apiVersion": "v1", "status": word, "message": message, "reason": reason,
                "code": code, "details": details}  # fmt: skip
    return web.json_response(document, status=code, headers=headers)


def merge(target: Document, patch: Document) -> Document:
    """RFC 7386."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def merge_by_type(before: list[Document], patch: list[Document]) -> list[Document]:
    """How a strategic merge patch changes conditions."""
    known = {each["type"]: each for each in before}
    for each in patch:
        known[each["type"]] = merge(known.get(each["type"], {}), each)
    return list(known.values())


def fits(request: web.Request, document: Document) -> bool:
    """Whether the selectors of the request fit (equality only)."""
    for term in filter(None, request.query.get("fieldSelector", "").split(",")):
        path, _, wanted = term.partition("=")
        value: Any = document
        for part in path.split("."):
            value = value.get(part, "") if isinstance(value, dict) else ""
        if value != wanted:
            return False
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        name, _, wanted = term.partition("=")
        if document["metadata"].get("labels", {}).get(name) != wanted:
            return False
    return True


def times(count: int, respond: Callable[[], web.StreamResponse], *, method: str = "") -> Behaviour:
    """The next `count` requests (of that method) are answered so."""
    left = count

    async def behave(request: web.Request) -> web.StreamResponse | None:
        nonlocal left
        if left <= 0 or method not in ("", request.method):
            return None
        left -= 1
        return respond()

    return behave


@dataclass(frozen=True)
class Authorities:
    """Certificates for both sides, as PEM."""

    authority: trustme.CA
    ca: bytes
    server: ssl.SSLContext
    certificate: bytes
    key: bytes

    @classmethod
    def make(cls, *, wants_client: bool = False, common_name: str = "system:node:test") -> "Authorities":
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "api.test").configure_cert(server)
        if wants_client:
            authority.configure_trust(server)
            server.verify_mode = ssl.CERT_REQUIRED
        client = authority.issue_cert(common_name=common_name, organization_name="system:nodes")
        chain = b"".join(each.bytes() for each in client.cert_chain_pems)
        return cls(authority, authority.cert_pem.bytes(), server, chain, client.private_key_pem.bytes())

    def access(self, url: str, **changes: Any) -> Access:
        """For a server with TLS."""
        return Access(**({"source": "the test", "server": url, "authority": self.ca} | changes))

    def write(self, directory: Path) -> None:
        """Write ca.crt, client.crt and client.key."""
        (directory / "ca.crt").write_bytes(self.ca)
        (directory / "client.crt").write_bytes(self.certificate)
        (directory / "client.key").write_bytes(self.key)
