"""The agent's own API for the terminal: HTTP with JSON over a Unix socket (mode 0600) in the state directory.

    GET    /version                              who answers
    GET    /pods                                 every pod with its status
    POST   /pods                                 a Bundle; 201 with the pod
    GET    /pods/{uid}                           an Account
    GET    /pods/{uid}/watch                     NDJSON: Frames, until the pod is removed
    POST   /pods/{uid}/exec                      an ExecRequest; 200 with an ExecGrant for the engine's socket
    POST   /pods/{uid}/attach                    an AttachRequest; 200 with an AttachGrant for the engine's socket
    POST   /pods/{uid}/renew                     restart what is in engines of another release; 200 with a Renewal
    GET    /engines                              EngineAccounts
    DELETE /pods/{uid}?gracePeriodSeconds&remove  have it end
    GET    /debug/lag?seconds                    how late the event loop was while this was asked, in milliseconds

The socket's file permissions are its authentication. Errors are `{"reason", "message", "hint", "fault"}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import web

from wasmlet import __version__
from wasmlet.base.errors import ConflictError, UserError, WasmletError
from wasmlet.base.turns import Turns
from wasmlet.pods import plan, status
from wasmlet.pods.accounts import Account, AttachGrant, AttachRequest, ExecGrant, ExecRequest, Frame, Renewal, Run
from wasmlet.pods.bundle import Bundle
from wasmlet.pods.dispatch import Dispatch
from wasmlet.pods.facts import Attempt
from wasmlet.pods.worker import Worker
from wasmlet.sandbox.refusals import SOCKET_NAME as ENGINE_SOCKET_NAME
from wasmlet.server.hub import Hub, Watch
from wasmlet.server.statuses import http_status

logger = logging.getLogger(__name__)

SOCKET_NAME = "agent.sock"
MAX_BODY_BYTES = 16 * 1024 * 1024
LAG_STEP_SECONDS = 0.005
LONGEST_LAG_SECONDS = 60.0

T = TypeVar("T")


def _refuse_others(bundle: Bundle) -> None:
    """A pod is ended by whoever brought it: ended here, a cluster would find it failed, and a file make it anew."""
    meta = bundle.pod.metadata
    if bundle.source == "file":
        raise ConflictError(
            f"pod {meta.namespace}/{meta.name} comes from {bundle.file}", hint="remove the file, and the pod ends"
        )
    if bundle.source != "local":
        raise ConflictError(
            f"pod {meta.namespace}/{meta.name} belongs to the cluster",
            hint=f"kubectl delete pod -n {meta.namespace} {meta.name}; or wasmlet leave --force without an agent",
        )


class LocalServer:
    """Answers the terminal.

    Args:
        on_request: Called at each request; an agent that ends when idle counts from the last one.
    """

    def __init__(self, dispatch: Dispatch, hub: Hub, *, engines: Path, on_request: Callable[[], None]) -> None:
        self._dispatch = dispatch
        self._hub = hub
        self._engines = engines
        self._on_request = on_request
        self._turns = Turns()
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        application.add_routes([
            web.get("/version", self._version),
            web.get("/pods", self._list),
            web.post("/pods", self._submit),
            web.get("/pods/{uid}", self._get),
            web.get("/pods/{uid}/watch", self._watch),
            web.post("/pods/{uid}/exec", self._exec),
            web.post("/pods/{uid}/attach", self._attach),
            web.post("/pods/{uid}/renew", self._renew),
            web.get("/engines", self._engines_list),
            web.delete("/pods/{uid}", self._delete),
            web.get("/debug/lag", self._lag),
        ])  # fmt: skip
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    async def start(self, directory: Path) -> None:
        """Listen at `directory`/agent.sock, in place of a socket that an ended agent left."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            (directory / SOCKET_NAME).unlink(missing_ok=True)
            await self._runner.setup()
            before = os.umask(0o177)
            try:
                await web.UnixSite(self._runner, f"/proc/self/fd/{descriptor}/{SOCKET_NAME}").start()
            finally:
                os.umask(before)
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Stop listening and end what is open."""
        await self._runner.cleanup()

    # --- handlers -----------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._on_request()
        await self._turns.take()
        try:
            return await handler(request)
        except WasmletError as error:
            return _json(error_document(error), status=http_status(error))

    async def _version(self, _request: web.Request) -> web.Response:
        return _json({"version": __version__, "pid": os.getpid()})

    async def _list(self, _request: web.Request) -> web.Response:
        accounts = []
        for worker in sorted(self._dispatch.workers, key=lambda each: each.facts.seen_at):
            await self._turns.take()
            accounts.append(msgspec.json.encode(self.account(worker, whole=False)))
        return web.Response(body=b"[" + b",".join(accounts) + b"]", content_type="application/json")

    async def _submit(self, request: web.Request) -> web.Response:
        bundle = await _body(request, Bundle, "bundle")
        if bundle.source != "local":
            raise UserError("a terminal's pods are of source local; others could not be ended from here")
        worker = self._dispatch.submit(bundle)
        return _json(self.account(worker), status=201)

    async def _get(self, request: web.Request) -> web.Response:
        return _json(self.account(self._dispatch.get(request.match_info["uid"])))

    async def _exec(self, request: web.Request) -> web.Response:
        wanted = await _body(request, ExecRequest, "exec request")
        attempt, spec = await self._dispatch.exec(
            request.match_info["uid"], wanted.container, wanted.command, stdin=wanted.stdin, tty=wanted.tty
        )
        return _json(ExecGrant(engine_socket=self._engine_socket(attempt), sandbox=attempt.id, spec=spec))

    async def _attach(self, request: web.Request) -> web.Response:
        wanted = await _body(request, AttachRequest, "attach request")
        attempt, tty = self._dispatch.attach(request.match_info["uid"], wanted.container, stdin=wanted.stdin)
        return _json(AttachGrant(engine_socket=self._engine_socket(attempt), sandbox=attempt.id, tty=tty))

    async def _renew(self, request: web.Request) -> web.Response:
        return _json(Renewal(containers=await self._dispatch.renew(request.match_info["uid"])))

    async def _engines_list(self, _request: web.Request) -> web.Response:
        return _json(await self._dispatch.engines())

    async def _delete(self, request: web.Request) -> web.Response:
        grace = request.query.get("gracePeriodSeconds")
        try:
            seconds = None if grace is None else max(float(grace), 0.0)
        except ValueError:
            seconds = math.nan
        if seconds is not None and not math.isfinite(seconds):
            raise UserError(f"gracePeriodSeconds={grace!r} is no number of seconds")
        remove = request.query.get("remove", "true") == "true"
        _refuse_others(self._dispatch.get(request.match_info["uid"]).bundle)
        self._dispatch.end(request.match_info["uid"], grace_seconds=seconds, remove=remove)
        return _json({}, status=202)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        uid = request.match_info["uid"]
        worker = self._dispatch.get(uid)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with self._hub.watch(uid) as watch, contextlib.suppress(ConnectionResetError):  # the watcher may leave
            async for _ in watch:
                for frame in self._frames(worker, watch):
                    await response.write(msgspec.json.encode(frame) + b"\n")
                if not self._dispatch.has(uid):
                    break
            await response.write_eof()
        return response

    async def _lag(self, request: web.Request) -> web.Response:
        asked = request.query.get("seconds", "1")
        try:
            seconds = float(asked)
        except ValueError:
            seconds = math.nan
        if not seconds > 0:
            raise UserError(f"seconds={asked!r} is no number of seconds above 0")
        late, end = list[float](), time.monotonic() + min(seconds, LONGEST_LAG_SECONDS)
        while (now := time.monotonic()) < end:
            await asyncio.sleep(LAG_STEP_SECONDS)
            late.append((time.monotonic() - now - LAG_STEP_SECONDS) * 1000)
        late.sort()
        return _json({"p50": late[len(late) // 2], "p99": late[round((len(late) - 1) * 0.99)], "max": late[-1]})

    def _frames(self, worker: Worker, watch: Watch) -> list[Frame]:
        frames = [Frame(news=news) for news in watch.news]
        frames += [Frame(progress=progress) for progress in watch.progress.values()]
        watch.news.clear()
        watch.progress.clear()
        if watch.changed:
            frames.append(Frame(account=self.account(worker, whole=False)))
        watch.changed = False
        return frames

    # --- accounts -----------------------------------------------------------------------------------------------------

    def account(self, worker: Worker, *, whole: bool = True) -> Account:
        """What is known of a pod now; without `whole`, without its news and what came with it."""
        view = worker.view()
        own = view.facts.containers
        failures = {name: each.failure for name, each in own.items() if each.failure is not None}
        if view.facts.volume_failure is not None:
            failures[""] = view.facts.volume_failure
        pod = msgspec.structs.replace(worker.bundle.pod, status=worker.status())
        stage = plan.stage(view)
        return Account(
            pod=pod,
            stage=stage.value,
            exit_code=status.exit_code(view) if view.facts.ended_at is not None else None,
            runs=[
                Run(
                    container=name,
                    attempt=attempt.number,
                    sandbox=attempt.id,
                    log=str(worker.places.log_file(name, attempt.number)),
                    engine_socket=self._engine_socket(attempt),
                    started=attempt.started_at is not None,
                    exit_code=attempt.exit_code if attempt.finished_at is not None else None,
                    serves=attempt.serves,
                )
                for name, each in own.items()
                for attempt in each.attempts
            ],
            failures=failures,
            config_maps=worker.bundle.config_maps if whole else [],
            secrets=worker.bundle.masked_secrets() if whole else [],
            news=self._hub.kept(worker.bundle.uid) if whole else [],
        )

    def _engine_socket(self, attempt: Attempt) -> str:
        return str(self._engines / attempt.engine / ENGINE_SOCKET_NAME)


async def _body(request: web.Request, kind: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.DecodeError as error:
        raise UserError(f"the body is no {name}: {error}") from error


def error_document(error: WasmletError) -> dict[str, str | None]:
    """An error as the terminal reads it back."""
    return {"reason": error.reason, "message": error.message, "hint": error.hint, "fault": error.fault.value}


def _json(value: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
