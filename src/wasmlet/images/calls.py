"""What is asked of a repository, and as which request it goes to one of its endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from wasmlet.base.http import aiohttp
from wasmlet.images.credentials import Credential
from wasmlet.images.hosts import Capability, Endpoint
from wasmlet.images.reference import Reference
from wasmlet.images.transport import Request, Upload


@dataclass(frozen=True, slots=True)
class Call:
    """What to ask of a repository; the URL may be another one for uploads."""

    reference: Reference
    logins: Sequence[Credential]
    actions: str
    method: str
    path: str
    capability: Capability = "pull"
    accept: str = "*/*"
    content_type: str = ""
    range_from: int = 0
    upload: Upload | None = None
    size_bytes: int = 0
    success: tuple[int, ...] = (200,)

    def request(self, endpoint: Endpoint, authorization: str | None) -> Request:
        """The request to one endpoint."""
        headers = {"Accept": self.accept}
        if self.content_type:
            headers["Content-Type"] = self.content_type
        if self.range_from:
            headers["Range"] = f"bytes={self.range_from}-"
        url = urljoin(f"{endpoint.base}/{self.reference.repository}/", self.path)
        if endpoint.mirrors:
            url += f"?ns={endpoint.mirrors}"  # containerd's way to tell a mirror of many registries which one is meant
        is_own = urlsplit(url)[:2] == urlsplit(endpoint.base)[:2]  # uploads may be sent elsewhere
        return Request(
            self.method,
            url,
            headers,
            authorization if is_own else None,
            self.upload,
            self.size_bytes,
            tls=endpoint.tls if is_own else endpoint.tls.for_others(),
            private=endpoint.headers if is_own else {},
        )


def reading(reference: Reference) -> Capability:
    """What a mirror must be good for: some may give contents by digest, but not say what a tag stands for."""
    return "resolve" if reference.digest is None else "pull"


def elsewhere(response: aiohttp.ClientResponse, endpoint: Endpoint) -> str:
    """The host that answered in the place of the one that was to be asked; "" when it was that one."""
    answered = urlsplit(str(response.url))
    return "" if answered[:2] == urlsplit(endpoint.base)[:2] else answered.netloc
