"""Compiled modules: made by a short-lived helper process, kept in a cache, mapped by the engines.

The helper (`wasmlet-engine compile`) reads the module from a descriptor and renames its output into place. The
cache's key is the module's digest with the engine's compatibility value; beside each artifact lies the record that
the helper printed, whose SHA-256 the engine checks when it maps the file. Nothing compiled is ever taken from
elsewhere (design section 2).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wasmlet.base.errors import GuestError, RetryableError, WasmletError
from wasmlet.base.files import read_if_present, write_atomically
from wasmlet.sandbox import protocol
from wasmlet.sandbox.refusals import error_from

logger = logging.getLogger(__name__)

DEFAULT_COMPILE_MEMORY_BYTES = 2 * 1024**3
"""A 2.6 MB Go module takes about 0.3 GiB; some generated modules take 6 GiB (design section 2), which a node has to
allow on purpose."""

PASSABLE = 0o711
"""A directory that others pass and cannot list."""

STALE_AFTER_SECONDS = 30 * 24 * 3600
NOTED_SECONDS = 3600.0
"""How exactly the last use is known; each note is a write to the disk."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How compiling is bounded.

    Attributes:
        directory: The cache.
        memory_bytes: What one helper may allocate before it gives up with `CompileMemory`.
        parallel: Helpers at a time; None is one for each core.
    """

    directory: Path
    memory_bytes: int = DEFAULT_COMPILE_MEMORY_BYTES
    parallel: int | None = None


class Artifacts:
    """The cache. One process writes it: the agent that holds the state directory."""

    def __init__(self, settings: Settings, *, program: Path) -> None:
        self._settings = settings
        self._program = program
        self._permits = asyncio.Semaphore(settings.parallel or os.cpu_count() or 1)
        self._locks: dict[str, asyncio.Lock] = {}
        self._refusals: dict[str, GuestError] = {}
        self._known: dict[str, protocol.Compiled] = {}
        _open_to_engines(settings.directory)

    @property
    def directory(self) -> Path:
        """The cache, which engines read."""
        return self._settings.directory

    async def ensure(
        self,
        module: Path,
        *,
        digest: str,
        compatibility: str,
        function: str = "",
        on_compile: Callable[[], None] | None = None,
    ) -> tuple[protocol.Artifact, protocol.Compiled]:
        """The artifact of `module`, compiled now unless the cache holds it.

        Args:
            digest: `sha256:…` of the module's bytes.
            compatibility: Of the engine that will map it (`protocol.Engine.compatibility`).
            function: The export that is to be run; "" is the usual one.
            on_compile: Called once before a helper starts; a cached artifact makes no call.

        Raises:
            GuestError: The module cannot be run here; the reason is the helper's.
            RetryableError: The disk is full, or the helper was killed.
        """
        key = hashlib.sha256(" ".join(filter(None, (digest, compatibility, function))).encode()).hexdigest()
        if key in self._refusals:
            raise self._refusals[key]
        path = self._settings.directory / key[:2] / f"{key}.cwasm"
        async with self._locks.setdefault(key, asyncio.Lock()):
            compiled = self._known.get(key) or _recorded(path)
            if compiled is None or not _is_whole(path, compiled):
                async with self._permits:
                    if on_compile is not None:
                        on_compile()
                    compiled = await self._compile(module, path, function, digest=digest, key=key)
            self._known[key] = compiled
        return protocol.Artifact(path=str(path), sha256=compiled.sha256, function=function or None), compiled

    def discard(self, artifact: protocol.Artifact) -> None:
        """Drop an artifact that an engine refused to map; the next `ensure` compiles it again."""
        path = Path(artifact.path)
        self._known.pop(path.stem, None)
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def remove_stale(self, *, now: float | None = None) -> int:
        """Delete what nobody has used for a month, and what a killed helper left; returns how many artifacts went."""
        before = (time.time() if now is None else now) - STALE_AFTER_SECONDS
        removed = 0
        for path in self._settings.directory.glob("*/*"):
            if path.suffix == ".cwasm" and path.stat().st_atime >= before:
                continue
            if path.suffix == ".json" and path.with_suffix(".cwasm").exists():
                continue
            path.unlink(missing_ok=True)
            path.with_suffix(".json").unlink(missing_ok=True)
            removed += path.suffix == ".cwasm"
        return removed

    async def _compile(self, module: Path, path: Path, function: str, *, digest: str, key: str) -> protocol.Compiled:
        chosen = [f"--function={function}"] if function else []
        try:
            path.parent.mkdir(exist_ok=True, mode=PASSABLE)
            with module.open("rb") as source:
                process = await asyncio.create_subprocess_exec(
                    self._program, "compile", "--output", path, "--memory-limit", str(self._settings.memory_bytes),
                    *chosen,
                    stdin=source, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={},
                )  # fmt: skip
        except OSError as error:
            raise _from_os_error(error, module) from error
        try:
            output, complaint = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        compiled = self._read_answer(process.returncode, output, complaint, module=module, key=key)
        if f"sha256:{compiled.input_sha256}" != digest:
            path.unlink(missing_ok=True)
            raise RetryableError(f"{module} changed while it was compiled", hint="it is read again at the next try")
        try:
            write_atomically(path.with_suffix(".json"), msgspec.json.encode(compiled), mode=0o640)
        except OSError as error:
            raise _from_os_error(error, module) from error
        logger.info("compile completed", extra={"wasm": module.name, "milliseconds": compiled.milliseconds})
        return compiled

    def _read_answer(
        self, status: int | None, output: bytes, complaint: bytes, *, module: Path, key: str
    ) -> protocol.Compiled:
        try:
            if status == 0:
                return msgspec.json.decode(output, type=protocol.Compiled)
            refusal = error_from(msgspec.json.decode(output, type=protocol.Error), what=f"compile of {module}")
        except msgspec.DecodeError:
            tail = complaint.decode(errors="replace").strip()[-256:]
            raise RetryableError(
                f"the compile helper ended with {status} on {module}{': ' + tail if tail else ''}",
                hint="it is tried again; if it stays so, look for the kernel's out-of-memory notes",
            ) from None
        if isinstance(refusal, GuestError):
            self._refusals[key] = refusal
        elif not isinstance(refusal, RetryableError):
            refusal = WasmletError(refusal.message, reason=refusal.reason)
        raise refusal


def _open_to_engines(directory: Path) -> None:
    """Engines of other users read artifacts by their names; what a release left that had none is opened once."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if stat.S_IMODE(directory.stat().st_mode) != PASSABLE:
        for each in directory.glob("*/*.cwasm"):
            each.chmod(0o644)
            each.parent.chmod(PASSABLE)
        directory.chmod(PASSABLE)


def _recorded(path: Path) -> protocol.Compiled | None:
    """What was written about an artifact; None when it has to be compiled."""
    content = read_if_present(path.with_suffix(".json"))
    try:
        return None if content is None else msgspec.json.decode(content, type=protocol.Compiled)
    except msgspec.DecodeError:
        return None


def _is_whole(path: Path, compiled: protocol.Compiled) -> bool:
    """Whether the artifact is there as it was recorded; its use is noted, an hour's use once."""
    try:
        found = path.stat()
        if found.st_size == compiled.bytes and found.st_atime < time.time() - NOTED_SECONDS:
            os.utime(path)
    except OSError:
        return False
    return found.st_size == compiled.bytes


def _from_os_error(error: OSError, module: Path) -> RetryableError:
    return RetryableError(f"cannot compile {module}: {error.strerror or error}", hint="see to the disk and its space")
