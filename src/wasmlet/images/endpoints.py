"""A registry's name → the endpoints to ask, in order: its mirrors, then itself."""

from __future__ import annotations

import dataclasses
import time
from typing import Final

from wasmlet.images import hosts
from wasmlet.images.hosts import Capability, Endpoint, Hosts
from wasmlet.images.settings import Settings
from wasmlet.images.threads import in_thread
from wasmlet.images.transport import Transport

REST_SECONDS: Final = 30.0
"""How long a mirror that was not well is passed over: one that hangs would cost every request its time limits."""


class Endpoints:
    """Reads hosts.toml each time, so that an edit needs no restart; it is one small file a request."""

    def __init__(self, settings: Settings, transport: Transport) -> None:
        self._directory = settings.hosts_directory
        self._transport = transport
        self._resting: dict[str, float] = {}

    async def of(self, registry: str, capability: Capability) -> tuple[Endpoint, ...]:
        """Whom to ask; the last one is the registry itself.

        Raises:
            UserError: The registry's hosts.toml cannot be used, or its certificate is not trusted.
            RetryableError: Nothing answers at a registry that may speak plain HTTP.
        """
        found = Hosts() if self._directory is None else await in_thread(hosts.load, self._directory, registry)
        now = time.monotonic()
        mirrors = [
            each
            for each in found.mirrors
            if capability != "push" and capability in each.capabilities and self._resting.get(each.base, 0.0) <= now
        ]
        server = found.server or Endpoint(base="")
        if not server.base:
            server = dataclasses.replace(server, base=f"{await self._transport.origin(registry, server.tls)}/v2")
        return (*mirrors, server)

    def rest(self, endpoint: Endpoint) -> None:
        """This mirror is not well."""
        self._resting[endpoint.base] = time.monotonic() + REST_SECONDS
