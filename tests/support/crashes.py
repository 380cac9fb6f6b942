"""Killing an agent at chosen moments: around each fact that is saved, each request to an engine, each hook's end."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from wasmlet.pods import facts
from wasmlet.pods.health import Health
from wasmlet.sandbox.engines import Engines


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the agent catches it."""


class Moments:
    """Counts the moments, and kills at the one that was chosen; from then on everything that is tried is killed too.

    Attributes:
        names: What the moments of this life were, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.has_come = asyncio.Event()
        self._chosen = 0
        save = facts.save

        def saving(*arguments: Any) -> None:
            self._pass("before save")
            save(*arguments)
            self._pass("after save")

        monkeypatch.setattr(facts, "save", saving)
        for name in ("put", "stop", "forget"):
            monkeypatch.setattr(Engines, name, self._around(name, getattr(Engines, name)))
        hooked = Health._hooked

        def ending(*arguments: Any) -> None:
            self._pass("before hook's end")
            hooked(*arguments)
            self._pass("after hook's end")

        monkeypatch.setattr(Health, "_hooked", ending)

    def choose(self, number: int) -> None:
        """Kill at the moment of that number, counted from now (1 is the next); 0 never."""
        self.names.clear()
        self.has_come.clear()
        self._chosen = number

    def _around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any, **named: Any) -> Any:
            self._pass(f"before {name}")
            result = await real(*arguments, **named)
            self._pass(f"after {name}")
            return result

        return call

    def _pass(self, name: str) -> None:
        self.names.append(name)
        if self.has_come.is_set() or len(self.names) == self._chosen:
            self.has_come.set()
            raise KilledError(name)
