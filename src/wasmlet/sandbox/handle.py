"""A living engine: what it said of itself and of its sandboxes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from wasmlet.base.errors import WasmletError
from wasmlet.sandbox import protocol
from wasmlet.sandbox.client import EngineClient
from wasmlet.sandbox.records import Record
from wasmlet.sandbox.refusals import EngineGoneError


@dataclass(eq=False)
class Handle:
    """A living engine. Mutable fields are changed by `Engines` only.

    `pidfd` tells its end. `full`: it takes no new sandboxes. `old`: it is of another release than the agent. `expected`
    holds the ids that somebody here still cares for: replayed events of forgotten ones are passed over.
    """

    record: Record
    client: EngineClient
    engine: protocol.Engine
    pidfd: int
    accounts: dict[str, protocol.Sandbox] = field(default_factory=dict)
    expected: set[str] = field(default_factory=set)
    sequence: int = 0
    full: bool = False
    old: bool = False
    idle_timer: asyncio.TimerHandle | None = None
    end: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<engine {self.record.id} pid={self.engine.pid} running={self.running}>"

    @property
    def is_busy(self) -> bool:
        """Whether any sandbox runs in it."""
        return any(account.state != "exited" for account in self.accounts.values())

    def runs_any(self, pods: Collection[str]) -> bool:
        """Whether a sandbox of any of these pods (by UID) runs in it."""
        return any(each.pod_uid in pods and each.state != "exited" for each in self.accounts.values())

    @property
    def running(self) -> int:
        """How many sandboxes run in it."""
        return sum(account.state != "exited" for account in self.accounts.values())


async def connect(record: Record, directory: Path, *, distance: int = 0) -> Handle:
    """The engine that answers in `directory`.

    Args:
        distance: How far the number of its protocol may be from ours: what runs in an engine of the release before
            or after can be watched and ended (protocol/engine.openapi.yaml).

    Raises:
        EngineGoneError: None answers.
        WasmletError: It cannot be understood.
    """
    client = EngineClient(directory)
    try:
        engine = await client.engine()
        if abs(engine.protocol - protocol.PROTOCOL) > distance:
            raise WasmletError(
                f"the engine {record.id} (release {engine.version}) speaks protocol {engine.protocol}, "
                f"this agent {protocol.PROTOCOL}",
                hint="wasmlet and wasmlet-engine have to be of one release",
            )
        sandboxes = await client.sandboxes()
        pidfd = os.pidfd_open(engine.pid)
    except OSError as error:
        await client.close()
        raise EngineGoneError(f"engine {record.id}: {error}") from error
    except BaseException:
        await client.close()
        raise
    accounts = {sandbox.id: sandbox for sandbox in sandboxes}
    return Handle(record, client, engine, pidfd, accounts, expected=set(accounts))
