"""GET /configz: how this node is set up, in the words of KubeletConfiguration (kubelet-contract 7.2)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from wasmlet.server import authentication, authorization

KIND = {"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1"}


class Configz:
    """Answers with the configuration.

    Args:
        configuration: What other rooms know, as fields of KubeletConfiguration (v1beta1); wins over what is said here.
    """

    def __init__(self, configuration: Mapping[str, object], *, debugging_handlers: bool) -> None:
        self._configuration = configuration
        self._debugging_handlers = debugging_handlers

    async def handle(self, _: web.Request) -> web.Response:
        """The configuration as it is now."""
        document = {"kubeletconfig": KIND | self._own() | dict(self._configuration)}
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    def _own(self) -> dict[str, object]:
        """What this room decides."""
        return {
            "enableServer": True,
            "readOnlyPort": 0,
            "authentication": {
                "x509": {},
                "webhook": {"enabled": True, "cacheTTL": duration(authentication.KNOWN_SECONDS)},
                "anonymous": {"enabled": False},
            },
            "authorization": {
                "mode": "Webhook",
                "webhook": {
                    "cacheAuthorizedTTL": duration(authorization.ALLOWED_SECONDS),
                    "cacheUnauthorizedTTL": duration(authorization.DENIED_SECONDS),
                },
            },
            "enableDebuggingHandlers": self._debugging_handlers,
            "tlsMinVersion": "VersionTLS12",
        }


def duration(seconds: float) -> str:
    """metav1.Duration as Go writes it: `2m0s`, `30s`, `1h0m0s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
