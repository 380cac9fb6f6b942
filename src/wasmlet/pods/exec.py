"""What `exec` runs in a container: found, compiled, and ready for the engine. The streams are the engine's.

`command[0]` names another module of the container when it is a path (it has a slash, or ends in `.wasm`): it is
looked up in the container's root and mounts as the guest sees them, and never beyond them, whatever links a guest has
planted there. In an image of files another word is looked up in the container's PATH. What follows `#` is the function
to call in the place of the usual one, as at a container's start. The container's own program
answers to its file's and its container's name and to its argv[0]; every other word (`sh`, `cat`) names nothing: the own
program run in its place would do something else, and say it went well.

`execute` runs a command to its end for the agent itself: exec probes and hooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wasmlet.base import beneath
from wasmlet.base.errors import ConflictError, GuestError, NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.images.programs import readings
from wasmlet.kube.types import Container
from wasmlet.pods.facts import Attempt, Directory
from wasmlet.pods.rooms import Rooms
from wasmlet.pods.view import all_containers
from wasmlet.sandbox import protocol
from wasmlet.sandbox.exec_stream import ExecStream

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

COMMAND_NOT_FOUND = "CommandNotFound"
MAX_MODULE_BYTES = 512 * 1024**2
"""The largest published modules have a fifth of it; a file of a guest's making may have any size."""

MAX_OUTPUT_BYTES = 10 * 1024
"""Of a probe's or hook's output this much is kept (contract section 5); the rest is read and dropped."""


@dataclass(frozen=True)
class Finished:
    """How a command of the agent's own ended; `output` is both streams as they came, at most 10 KiB."""

    exit_code: int
    output: str


async def execute(
    rooms: Rooms, worker: Worker, name: str, command: Sequence[str], *, timeout_seconds: float | None = None
) -> Finished:
    """Run `command` in the container `name` to its end. Cancelled, or out of time, it is ended.

    Args:
        timeout_seconds: From its start, so that what has to be compiled first is not held against it.

    Raises:
        WasmletError: It could not be run, as in `prepare`; or wasmlet is at fault.
        TimeoutError: It took longer.
    """
    attempt, spec = await prepare(rooms, worker, name, command, stdin=False)
    async with asyncio.timeout(timeout_seconds):
        stream = await rooms.engines.exec(attempt.engine, attempt.id, spec)
        try:
            return await _finish(stream)
        finally:
            await stream.close()


async def _finish(stream: ExecStream) -> Finished:
    output = bytearray()
    async for _, content in stream.output():
        output += content[: MAX_OUTPUT_BYTES - len(output)]
    assert stream.exit is not None
    if stream.exit.fault == "wasmlet":
        raise WasmletError(stream.exit.message)
    return Finished(stream.exit.exit_code, output.decode(errors="replace"))


async def prepare(
    rooms: Rooms, worker: Worker, name: str, command: Sequence[str], *, stdin: bool, tty: bool = False
) -> tuple[Attempt, protocol.ExecSpec]:
    """The attempt to run in, and what its engine is to be asked for.

    Raises:
        NotFoundError: The pod has no such container; or the command is not there (reason CommandNotFound).
        ConflictError: The container is not running.
        GuestError: It has nothing to run, or the command cannot be run.
        UserError: The command is empty, or no regular file.
        RetryableError: Its engine has ended, or the disk is full.
    """
    if not command:
        raise UserError("there is no command to run")
    container, attempt = running(worker, name)
    artifact, own = None, own_names(container, attempt)
    is_path = any("/" in name or name.endswith(".wasm") for name, _ in readings(command[0]))
    if is_path or (attempt.search and command[0] not in own):
        artifact = await _compiled(rooms, container, attempt, command[0])
    elif command[0] not in own:
        raise NotFoundError(
            f"there is no program {command[0]} in container {name!r}",
            hint=f"name a module in its root or mounts by its path, or its own program ({own[0]})",
            reason=COMMAND_NOT_FOUND,
        )
    if artifact is None and attempt.serves:
        raise GuestError(
            f"container {name!r} serves HTTP: there is nothing to run in it",
            hint="name another module of the container by its path",
            reason="NoEntryPoint",
        )
    return attempt, protocol.ExecSpec(args=list(command), artifact=artifact, stdin=stdin, tty=tty)


def prepare_attach(worker: Worker, name: str, *, stdin: bool) -> tuple[Attempt, bool]:
    """The attempt to attach to, and whether it has a terminal.

    Raises:
        NotFoundError: The pod has no such container.
        ConflictError: The container is not running; or it has no stdin, and `stdin` asks for it.
    """
    container, attempt = running(worker, name)
    if stdin and not container.stdin:
        raise ConflictError(
            f"container {name!r} in pod {worker.bundle.pod.metadata.name!r} has no stdin",
            hint="attach without -i, or give it one with `stdin: true` in the manifest",
        )
    return attempt, container.tty


def running(worker: Worker, name: str) -> tuple[Container, Attempt]:
    """A container and its attempt that runs. Raises NotFoundError or ConflictError when there is none."""
    pod = worker.bundle.pod.metadata.name
    container = next((each for each in all_containers(worker.bundle.pod) if each.name == name), None)
    if container is None:
        names = ", ".join(each.name for each in all_containers(worker.bundle.pod))
        raise NotFoundError(f"container {name!r} not found in pod {pod!r}", hint=f"it has {names}")
    attempt = worker.facts.container(name).last
    if attempt is None or attempt.started_at is None or attempt.finished_at is not None:
        state = "has not started" if attempt is None or attempt.started_at is None else "has ended"
        raise ConflictError(f"container {name!r} in pod {pod!r} is not running: it {state}")
    return container, attempt


def own_names(container: Container, attempt: Attempt) -> list[str]:
    """What the container's own program answers to, the name of its file first."""
    file = posixpath.basename(attempt.image.partition("@")[0]).partition(":")[0]
    first = container.command[0] if container.command else container.name
    return [file.removesuffix(".wasm"), file, container.name, first, posixpath.basename(first)]


async def _compiled(rooms: Rooms, container: Container, attempt: Attempt, word: str) -> protocol.Artifact | None:
    """The artifact of the file that `word` stands for, and its function; None for the container's own module."""
    compatibility = rooms.engines.compatibility(attempt.engine)
    working_dir = attempt.working_dir or container.working_dir or "/"
    candidates = _candidates(attempt, working_dir, word)
    try:
        descriptor, function = await asyncio.to_thread(_open_first, attempt.directories, candidates)
    except NotFoundError as error:
        if word in own_names(container, attempt):
            return None
        raise NotFoundError(
            f"{word} is not in container {container.name!r}",
            hint="only WebAssembly modules in the container's root or mounts can be run; there is no shell beside them",
            reason=COMMAND_NOT_FOUND,
        ) from error
    try:
        digest = await asyncio.to_thread(_digest, descriptor, word)
        module = beneath.descriptor_path(descriptor)
        artifact, compiled = await rooms.artifacts.ensure(
            module, digest=digest, compatibility=compatibility, function=function
        )
    finally:
        os.close(descriptor)
    if compiled.kind != "command":
        raise GuestError(f"{word} serves HTTP: it is no command", reason="NoEntryPoint")
    return artifact


def _candidates(attempt: Attempt, working_dir: str, word: str) -> list[tuple[str, str]]:
    """The paths that a command may stand for, the likeliest first, each with the function to call."""
    found = []
    for name, function in readings(word):
        places = attempt.search.split(":") if "/" not in name and attempt.search else []
        found += [(posixpath.join("/", working_dir, place, name), function) for place in (*places, "")]
    return found


def _open_first(directories: Sequence[Directory], candidates: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """As `_open`, of the first of `candidates` that is there; and its function."""
    for path, function in candidates[:-1]:
        with contextlib.suppress(NotFoundError):
            return _open(directories, path), function
    path, function = candidates[-1]
    return _open(directories, path), function


def _open(directories: Sequence[Directory], name: str) -> int:
    """A descriptor of the file that a guest with these directories sees under `name`, which is absolute."""
    path = "/" + posixpath.normpath(name).lstrip("/")  # "//" is a root of its own
    by_path = {each.guest_path: each for each in directories}
    cover = path
    while cover not in by_path:
        if cover == "/":
            raise NotFoundError(f"there is no {name}")
        cover = posixpath.dirname(cover)
    directory = beneath.open_directory(Path(by_path[cover].root), by_path[cover].relative)
    try:
        relative = posixpath.relpath(path, cover)
        return beneath.open_file(beneath.descriptor_path(directory), relative, follow_inside=True)
    except OSError as error:
        raise RetryableError(f"cannot open {name}: {error.strerror}") from error
    finally:
        os.close(directory)


def _digest(descriptor: int, name: str) -> str:
    if os.fstat(descriptor).st_size > MAX_MODULE_BYTES:
        raise UserError(f"{name} is larger than {MAX_MODULE_BYTES} bytes")
    with open(descriptor, "rb", closefd=False) as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
