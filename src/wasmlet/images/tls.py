"""TLS of registries: whom we trust, and who we are. Contexts are made once for each such pair, in a thread."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, replace
from pathlib import Path

from wasmlet.base.errors import UserError
from wasmlet.images.threads import in_thread


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS with one host.

    Attributes:
        ca_files: PEM files of authorities that are trusted beside the system's.
        client: The files of our certificate and of its key (both may be one); None shows none.
        verify: Whether the certificate is checked at all.
    """

    ca_files: tuple[Path, ...] = ()
    client: tuple[Path, Path] | None = None
    verify: bool = True

    def for_others(self) -> Tls:
        """For hosts that this one sends us to: the same authorities, but checked, and without our certificate."""
        return replace(self, client=None, verify=True)


class Contexts:
    """TLS → ssl.SSLContext."""

    def __init__(self) -> None:
        self._made: dict[Tls, ssl.SSLContext] = {}

    async def of(self, tls: Tls) -> ssl.SSLContext:
        """The context.

        Raises:
            UserError: A file cannot be used; the message names it.
        """
        if tls not in self._made:
            # Reading the system's authorities takes some 20 ms.
            self._made[tls] = await in_thread(_make, tls)
        return self._made[tls]


def _make(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for path in tls.ca_files:
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"cannot use the certificate authorities in {path}: {error}") from error
    if tls.client is not None:
        certificate, key = tls.client
        try:
            # A key with a passphrase must not ask the terminal for it.
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise UserError(f"cannot use the client certificate {certificate} with key {key}: {error}") from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_passphrase() -> bytes:
    return b""
