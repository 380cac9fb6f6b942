"""An HTTP server for probes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

HOST = "127.0.0.1"


class Server:
    """An HTTP server whose answer can be changed."""

    def __init__(self) -> None:
        self.status = 200
        self.port = 0
        self.requests: list[tuple[str, dict[str, str]]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, {name.lower(): value for name, value in request.headers.items()}))
        if request.path == "/slow":
            await asyncio.sleep(30)
        if request.path == "/elsewhere":
            raise web.HTTPFound("http://host.invalid/")
        if request.path == "/redirect":
            raise web.HTTPFound("/")
        return web.Response(status=self.status, body=b"x" * 100_000)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()
