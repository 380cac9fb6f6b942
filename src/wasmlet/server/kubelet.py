"""The kubelet's HTTPS API, which the API server calls for `kubectl logs` and its like (kubelet-contract section 7).

    GET       /healthz, /healthz/{ping,log,syncloop}         `health`
    GET       /pods, /runningpods/                           `pods`
    GET       /containerLogs/{namespace}/{pod}/{container}   `logs`
    GET       /configz                                       `configz`
    GET       /stats/summary                                 `summary`
    GET|POST  /exec, /attach, /portForward; POST /run        501 until they are there

A request goes: door (`listening`, `tls`) → who is it (`authentication`) → may it (`authorization`) → its verb's file.
There is no path around the first three, not even to a 404. Errors are plain text, as a kubelet's.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from wasmlet.base.errors import WasmletError
from wasmlet.pods.dispatch import Dispatch
from wasmlet.server import tls
from wasmlet.server.authentication import Authenticator, Certificate
from wasmlet.server.authorization import Authorizer, attributes, forbidden_text
from wasmlet.server.configz import Configz
from wasmlet.server.health import Health
from wasmlet.server.health import routes as health_routes
from wasmlet.server.hub import Hub
from wasmlet.server.listening import Door, Limits
from wasmlet.server.log_options import InvalidOptionsError
from wasmlet.server.logs import Logs
from wasmlet.server.pods import Pods
from wasmlet.server.statuses import http_status
from wasmlet.server.summary import Summary

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

IDLE_SECONDS: Final = 90.0
"""Until a connection without requests is closed; a kubelet's IdleTimeout (pkg/kubelet/server)."""

END_SECONDS: Final = 1.0
"""What open answers have when the server closes, before they are broken off."""

DEBUGGING: Final = frozenset({"run", "exec", "attach", "portForward", "containerLogs", "runningpods"})
"""First segments that enableDebuggingHandlers=false closes."""

CONTAINER_VERBS: Final = {"exec": ("GET", "POST"), "attach": ("GET", "POST"), "run": ("POST",)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the API is served.

    Attributes:
        configuration: What /configz says beside what this room knows: fields of KubeletConfiguration.
        debugging_handlers: enableDebuggingHandlers; without them there are no logs and no exec.
        split_streams: The gate PodLogsQuerySplitStreams (alpha: off).
        limits: What peers may take.
    """

    configuration: Mapping[str, object] = field(default_factory=dict)
    debugging_handlers: bool = True
    split_streams: bool = False
    limits: Limits = field(default_factory=Limits)


def status_of(error: WasmletError) -> int:
    """The HTTP status that stands for an error; the one place of this API that says so."""
    return HTTPStatus.UNPROCESSABLE_ENTITY if isinstance(error, InvalidOptionsError) else http_status(error)


class KubeletServer:
    """Serves the API on one address.

    Give it a certificate by `rotate`, before `start` or later: until then connections are closed at once, as a
    kubelet does that waits for its serving certificate.

    Args:
        hub: Tells followers of logs that a container has ended.
        authenticator, authorizer: Closed with this.
    """

    def __init__(
        self,
        settings: Settings,
        dispatch: Dispatch,
        hub: Hub,
        authenticator: Authenticator,
        authorizer: Authorizer,
        *,
        health: Health | None = None,
        summary: Summary | None = None,
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._serving: tls.ServingContext | None = None
        self._files: tls.TlsFiles | None = None
        self._door: Door | None = None
        self._busy: set[RequestHandler] = set()
        self._logs = Logs(dispatch, hub, split_streams=settings.split_streams)
        application = web.Application(middlewares=[self._guard])
        application.add_routes(self._routes(Pods(dispatch), health or Health()))
        if summary is not None:
            application.add_routes([_get("/stats/summary", summary.handle)])
        self._runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=END_SECONDS,
            keepalive_timeout=IDLE_SECONDS,
            handler_cancellation=True,  # a follower that leaves ends its handler
        )

    def __repr__(self) -> str:
        return f"<KubeletServer {self._door!r}>"

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._door is not None
        return self._door.port

    async def start(self, address: str, port: int) -> None:
        """Listen on the node's address; port 0 takes a free one.

        Raises:
            UserError: The address is not this machine's, or the port is taken.
        """
        tls.bound_buffers()
        await self._runner.setup()
        assert self._runner.server is not None
        door = Door(self._runner.server, context=self._context, limits=self._settings.limits)
        await door.open(address, port)
        self._door = door
        logger.info("kubelet API started", extra={"address": address, "port": door.port})

    async def close(self) -> None:
        """Accept nobody any more, break off what is open. Idempotent."""
        if self._door is not None:
            await self._door.close()
        self._logs.break_off()
        await self._runner.cleanup()
        await self._logs.close()
        await self._authenticator.close()
        await self._authorizer.close()

    def rotate(self, files: tls.TlsFiles | None = None) -> None:
        """Serve new connections with what the files hold now; open ones go on with what they began with.

        When the client authorities are others, open connections end after the request that is under way, so that
        nobody stays whom the new ones would not let in.

        Args:
            files: None reads the present ones anew.

        Raises:
            UserError: They cannot be used; everything stays as it was.
        """
        files = files or self._files
        assert files is not None, "no files were ever given"
        before, self._serving, self._files = self._serving, tls.load(files), files
        if before is not None and before.client_ca != self._serving.client_ca and self._runner.server is not None:
            for connection in self._runner.server.connections:
                if connection in self._busy:
                    connection.close()  # after its request
                else:
                    connection.force_close()

    def _context(self) -> ssl.SSLContext | None:
        return None if self._serving is None else self._serving.context

    def _routes(self, pods: Pods, health: Health) -> list[web.RouteDef]:
        configz = Configz(self._settings.configuration, debugging_handlers=self._settings.debugging_handlers)
        routes = [
            *health_routes(health),
            _get("/pods", pods.handle),
            _get("/runningpods", pods.handle_running),
            _get("/runningpods/", pods.handle_running),
            _get("/configz", configz.handle),
            _get("/containerLogs/{namespace}/{pod}/{container}", self._logs.handle),
        ]
        for verb, methods in CONTAINER_VERBS.items():
            for path in ("{namespace}/{pod}/{container}", "{namespace}/{pod}/{uid}/{container}"):
                routes += [web.route(method, f"/{verb}/{path}", _not_yet(verb)) for method in methods]
        for path in ("{namespace}/{pod}", "{namespace}/{pod}/{uid}"):
            routes += [
                web.route(method, f"/portForward/{path}", _not_yet("port-forward")) for method in ("GET", "POST")
            ]
        return routes

    # --- before every handler -----------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every request comes through here, those for paths that do not exist too."""
        connection = request.protocol
        self._busy.add(connection)
        try:
            response = await self._answer(request, handler)
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            self._busy.discard(connection)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await self._refusal(request) or await handler(request)
        except WasmletError as error:
            return web.Response(status=status_of(error), text=error.message)
        except web.HTTPException as error:  # of the router: no such path or method
            return web.Response(status=error.status, text=error.text, headers=error.headers)
        except Exception:
            # Not the query: a command line may hold what is secret.
            logger.exception("request failed", extra={"method": request.method, "path": request.path})
            return web.Response(status=500, text="wasmlet failed to answer; its log says why\n")

    async def _refusal(self, request: web.Request) -> web.Response | None:
        """The answer for who may not; None when the caller may."""
        transport = request.transport
        connection = None if transport is None else transport.get_extra_info("ssl_object")
        authorization = request.headers.get("Authorization", "")
        identity = await self._authenticator.identify(Certificate.of(connection), authorization)
        if identity is None:
            response = web.Response(status=401, text="Unauthorized")
            response.force_close()
            return response
        assert self._door is not None
        self._door.know(request.protocol)
        # The route that will be run decides, not the way in which its path was written.
        resource = request.match_info.route.resource
        path = request.path if resource is None else resource.canonical
        wanted = attributes(request.method, path)
        if not await self._authorizer.allows(identity, wanted):
            text = forbidden_text(identity, wanted)
            logger.info("request refused", extra={"path": request.path, "reason": text.strip()})
            return web.Response(status=403, text=text)
        if not self._settings.debugging_handlers and path.split("/", 2)[1] in DEBUGGING:
            return web.Response(status=405, text="Debug endpoints are disabled.\n")
        return None


INSTEAD: Final = {
    "exec": "on the node: wasmlet exec",
    "attach": "on the node: wasmlet attach",
    "run": "on the node: wasmlet exec",
    "port-forward": "the pod's address answers on the node, and a Service's in the cluster",
}
"""What does the same meanwhile; `kubectl` shows it."""


def _get(path: str, handler: Handler) -> web.RouteDef:
    return web.get(path, handler, allow_head=False)


def _not_yet(verb: str) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=501, text=f"wasmlet does not serve {verb} yet; {INSTEAD[verb]}\n")

    return handle
