"""What a caller may do: each path is a subresource of this node, and RBAC decides (kubelet-contract 7.1)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from wasmlet.base.errors import WasmletError
from wasmlet.server.caching import Seconds, Verdicts
from wasmlet.server.reviews import Identity, Reviews

ALLOWED_SECONDS: Final = 300.0
"""authorization.webhook.cacheAuthorizedTTL of a kubelet."""

DENIED_SECONDS: Final = 30.0
"""authorization.webhook.cacheUnauthorizedTTL of a kubelet."""

KEPT_VERDICTS: Final = 4096
PARALLEL_REVIEWS: Final = 16

VERBS: Final = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

# First segment of the path → subresources, tried in this order (KubeletFineGrainedAuthz, GA in 1.36).
SUBRESOURCES: Final[dict[str, tuple[str, ...]]] = {
    "stats": ("stats",),
    "metrics": ("metrics",),
    "logs": ("log",),
    "checkpoint": ("checkpoint",),
    "statusz": ("statusz",),
    "flagz": ("configz",),
    "pods": ("pods", "proxy"),
    "runningpods": ("pods", "proxy"),
    "healthz": ("healthz", "proxy"),
    "configz": ("configz", "proxy"),
}
EVERYTHING_ELSE: Final = ("proxy",)


@dataclass(frozen=True)
class Attributes:
    """A request as RBAC sees it: one of `subresources` is enough. `verb` is "" for a method that has none."""

    verb: str
    subresources: tuple[str, ...]


def attributes(method: str, path: str) -> Attributes:
    """The attributes of a request.

    Args:
        path: Of the route that will be run, as long as there is one, so that no spelling of a path gets by.
    """
    segments = path.split("/", 2)
    first = segments[1] if path.startswith("/") else ""
    return Attributes(VERBS.get(method, ""), SUBRESOURCES.get(first, EVERYTHING_ELSE))


class ReviewFailedError(WasmletError):
    """Nobody could say whether the caller may: 500, as a kubelet answers."""


class Authorizer:
    """Decides by SubjectAccessReview.

    Args:
        node_name: Whose subresources these are.
        now: For the cache; tests pass their own.
    """

    def __init__(self, reviews: Reviews, *, node_name: str, now: Seconds = time.monotonic) -> None:
        self._reviews = reviews
        self._node_name = node_name
        self._verdicts: Verdicts[tuple[Identity, str, str], bool] = Verdicts(
            "access review",
            lifetime=lambda allowed: ALLOWED_SECONDS if allowed else DENIED_SECONDS,
            favours=bool,
            size=KEPT_VERDICTS,
            parallel=PARALLEL_REVIEWS,
            now=now,
        )

    async def allows(self, identity: Identity, wanted: Attributes) -> bool:
        """Whether the identity may do that on one of the subresources.

        Raises:
            ReviewFailedError: There was no answer.
        """
        for subresource in wanted.subresources:
            if await self._allows(identity, wanted.verb, subresource):
                return True
        return False

    async def close(self) -> None:
        """Give up the reviews under way."""
        await self._verdicts.close()

    async def _allows(self, identity: Identity, verb: str, subresource: str) -> bool:
        try:
            return await self._verdicts.ask(
                (identity, verb, subresource),
                lambda: self._reviews.access(identity, verb=verb, subresource=subresource, node=self._node_name),
                label=identity.name,
            )
        except WasmletError as error:
            raise ReviewFailedError(
                f"Authorization error (user={identity.name}, verb={verb}, resource=nodes, subresource={subresource})"
            ) from error


def forbidden_text(identity: Identity, wanted: Attributes) -> str:
    """What a caller reads that may not; the kubelet's words."""
    subresources = " ".join(wanted.subresources)
    return f"Forbidden (user={identity.name}, verb={wanted.verb}, resource=nodes, subresource(s)=[{subresources}])\n"
