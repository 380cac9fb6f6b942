"""A registry in memory, as small as can be: what `wasmlet push`, `pull` and `cosign` need of the distribution API."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

Content = tuple[bytes, str]


class Handler(BaseHTTPRequestHandler):
    """Blobs and manifests by the last part of their path; uploads in one piece."""

    protocol_version = "HTTP/1.1"
    contents: dict[str, Content] = {}

    def do_GET(self) -> None:  # http.server finds it by this name
        """Give a blob or a manifest."""
        self._give(with_body=True)

    def do_HEAD(self) -> None:
        """Say whether it is there."""
        self._give(with_body=False)

    def do_POST(self) -> None:
        """Begin an upload; its place is always the same."""
        self._answer(202, {"Location": self.path.rstrip("/") + "/one"})

    def do_PUT(self) -> None:
        """Take a blob, or a manifest under its tag and its digest."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        url = urlsplit(self.path)
        kind = self.headers.get("Content-Type", "")
        names = {digest} if parse_qs(url.query).get("digest") else {digest, url.path}
        self.contents.update(dict.fromkeys(names, (body, kind)))
        self._answer(201, {"Docker-Content-Digest": digest})

    def _give(self, *, with_body: bool) -> None:
        found = self.contents.get(self.path) or self.contents.get(self.path.rpartition("/")[2])
        if found is None:
            self._answer(404, {})
            return
        body, kind = found
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self._answer(200, {"Content-Type": kind, "Docker-Content-Digest": digest}, body, with_body=with_body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"", *, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nobody reads it."""


@contextlib.contextmanager
def running() -> Iterator[str]:
    """A registry on a free port of loopback, `host:port`, until the context ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="registry", daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
