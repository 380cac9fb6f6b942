"""A registry in the test's own process that does what it is told, badly if so told; talks real HTTP on port 0."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import web

from wasmlet.images.layouts import KRUSTLET_CONFIG, KRUSTLET_LAYER, WASM_CONFIG, WASM_LAYER
from wasmlet.images.manifest import OCI_MANIFEST, digest_of

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
MODULE = b"\0asm\x01\0\0\0" + b"\0\x05\x01xabc"


class FakeRegistry:
    """`behaviours` are asked in order before a request is answered properly; `seen` keeps every request."""

    def __init__(self) -> None:
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.blobs: dict[str, bytes] = {}
        self.behaviours: list[Behaviour] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.gone = asyncio.Event()
        self._news = asyncio.Condition()
        self.address = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, tls: ssl.SSLContext | None = None) -> AsyncIterator["FakeRegistry"]:
        registry = cls()
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", registry._answer)
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        registry.address = f"127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield registry
        finally:
            await runner.cleanup()

    def add_blob(self, content: bytes) -> dict[str, Any]:
        digest = digest_of(content)
        self.blobs[digest] = content
        return {"digest": digest, "size": len(content)}

    def add_manifest(self, name: str, document: dict[str, Any], media_type: str = OCI_MANIFEST) -> str:
        """The manifest under `name` (a tag) and its digest, which is returned."""
        content = json.dumps(document).encode()
        digest = digest_of(content)
        self.manifests[name] = self.manifests[digest] = (content, media_type)
        return digest

    def add_image(self, tag: str = "latest", *, module: bytes = MODULE, krustlet: bool = False) -> str:
        """A proper image; its reference."""
        config = b"{}" if krustlet else b'{"architecture":"wasm","os":"wasip1"}'
        types = (KRUSTLET_CONFIG, KRUSTLET_LAYER) if krustlet else (WASM_CONFIG, WASM_LAYER)
        self.add_manifest(tag, self.manifest(types[0], config, (types[1], module)))
        return f"{self.address}/test/hello:{tag}"

    def manifest(self, config_type: str, config: bytes, *layers: tuple[str, bytes]) -> dict[str, Any]:
        return {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": config_type, **self.add_blob(config)},
            "layers": [{"mediaType": media_type, **self.add_blob(content)} for media_type, content in layers],
        }

    def count(self, method: str, part: str) -> int:
        return sum(seen == method and part in path for seen, path, _ in self.seen)

    async def asked(self, method: str, part: str, *, number: int) -> None:
        """Waits for the `number`th such request."""
        async with self._news:
            await self._news.wait_for(lambda: self.count(method, part) >= number)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path_qs, dict(request.headers)))
        async with self._news:
            self._news.notify_all()
        try:
            for behaviour in self.behaviours:
                answer = await behaviour(request)
                if answer is not None:
                    return answer
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return self._answer_properly(request)

    def _answer_properly(self, request: web.Request) -> web.Response:
        kind, _, name = request.path.rpartition("/")
        if kind.endswith("/manifests") and name in self.manifests:
            content, media_type = self.manifests[name]
            headers = {"Docker-Content-Digest": digest_of(content), "Content-Type": media_type}
            return web.Response(body=content, headers=headers)
        if kind.endswith("/blobs") and name in self.blobs:
            return web.Response(body=self.blobs[name])
        if request.path == "/v2/":
            return web.Response()
        errors = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        return web.json_response(errors, status=404)


def on(part: str, answer: Callable[[web.Request], Awaitable[web.StreamResponse | None]], method: str = "") -> Behaviour:
    """The behaviour for requests whose path holds `part`."""

    async def behaviour(request: web.Request) -> web.StreamResponse | None:
        if part in request.path and method in ("", request.method):
            return await answer(request)
        return None

    return behaviour


def status(code: int, **headers: str) -> Behaviour:
    """Always answers with a status."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def times(number: int, behaviour: Behaviour) -> Behaviour:
    """The behaviour for the first `number` requests that it answers."""
    left = number

    async def limited(request: web.Request) -> web.StreamResponse | None:
        nonlocal left
        if left == 0:
            return None
        left -= 1  # Before the answer, which may never end.
        answer = await behaviour(request)
        left += answer is None
        return answer

    return limited


async def hang(_: web.Request) -> web.StreamResponse:
    """Takes the request and never answers."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def partly(content: bytes, *, length: int, then: str) -> Behaviour:
    """Announces `length` bytes, sends `content`, and then cuts the line or hangs."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(length)})
        await response.prepare(request)
        await response.write(content)
        if then == "hang":
            await asyncio.Event().wait()
        assert request.transport is not None
        request.transport.abort() if then == "cut" else None
        return response

    return answer
