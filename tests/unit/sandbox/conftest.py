"""Engines and artifacts without pods."""

import hashlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.guests import guest
from wasmlet.sandbox import artifacts, engines, protocol
from wasmlet.sandbox.engines import Engines, Handle, PoolKey

KEY = PoolKey("default")


def digest_of(module: Path) -> str:
    return f"sha256:{hashlib.sha256(module.read_bytes()).hexdigest()}"


class Sandboxes:
    """A state directory's engines and artifacts, as an agent has them.

    Attributes:
        changes: The pod UIDs that `on_change` was called with.
    """

    def __init__(self, directory: Path, program: Path) -> None:
        self.directory = directory
        self.program = program
        self.idle_seconds = 60.0
        self.changes: list[str] = []
        self._numbers = itertools.count()
        self.artifacts = artifacts.Artifacts(artifacts.Settings(directory=directory / "cache"), program=program)
        self.engines = self.make_engines()

    def make_engines(self) -> Engines:
        access = engines.Access(write=(self.directory,))
        settings = engines.Settings(directory=self.directory / "engines", access=access, idle_seconds=self.idle_seconds)
        made = Engines(settings, program=self.program)
        made.on_change = self.changes.append
        return made

    async def restart(self) -> None:
        """As a new agent: new objects, the same directory."""
        await self.engines.close()
        self.engines = self.make_engines()
        await self.engines.adopt()

    async def put(self, program: str, *arguments: str, key: PoolKey = KEY) -> tuple[Handle, str]:
        """Start a sandbox; returns its engine and its id. Its pod's UID is its id too."""
        handle = await self.engines.acquire(key)
        identity = f"s{next(self._numbers)}"
        await self.engines.put(
            identity, await self.spec(handle, identity, program, *arguments), engine=handle.record.id
        )
        return handle, identity

    async def spec(self, handle: Handle, identity: str, program: str, *arguments: str) -> protocol.SandboxSpec:
        module = guest(program)
        artifact, _ = await self.artifacts.ensure(
            module, digest=digest_of(module), compatibility=handle.engine.compatibility
        )
        (self.directory / identity).mkdir(exist_ok=True)
        return protocol.SandboxSpec(
            pod_uid=identity, pod_namespace="default", pod_name="p", container="c", attempt=0, artifact=artifact,
            args=[program, *arguments], log=protocol.Log(path=str(self.log(identity))),
            exit_file=str(self.directory / identity / "exit.json"),
        )  # fmt: skip

    def log(self, identity: str) -> Path:
        return self.directory / identity / "0.log"

    def account(self, handle: Handle, identity: str) -> protocol.Sandbox | None:
        return self.engines.account(handle.record.id, identity)


@pytest.fixture
async def sandboxes(state_directory: Path, engine_program: Path) -> AsyncIterator[Sandboxes]:
    made = Sandboxes(state_directory, engine_program)
    yield made
    await made.engines.close()
