"""The files that the kubelet API shows and trusts, followed while others replace them (kubelet-contract 2)."""

from __future__ import annotations

from pathlib import Path

from wasmlet.server.kubelet import KubeletServer
from wasmlet.server.tls import TlsFiles

__all__ = ["ServingFiles"]


class ServingFiles:
    """What the kubelet API shows and whom it trusts; each may be replaced while the other stays."""

    def __init__(self, server: KubeletServer, *, client_ca: Path | None) -> None:
        self._server = server
        self._client_ca = client_ca
        self._pem: Path | None = None

    def show(self, pem: Path) -> None:
        """Another serving certificate: certificate, chain and key in one file."""
        self._pem = pem
        self._server.rotate(TlsFiles(certificate=pem, key=pem, client_ca=self._client_ca))

    def authorities(self) -> list[Path]:
        """The files that say whom it trusts."""
        return [] if self._client_ca is None else [self._client_ca]

    async def read_again(self) -> None:
        """The authorities are others."""
        if self._pem is not None:
            self.show(self._pem)
