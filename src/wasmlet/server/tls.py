"""The server's side of TLS: contexts from the files that certificates are kept in (kubelet-contract 2 and 7.1).

A context is never changed: rotation makes another one, which new connections get.
"""

from __future__ import annotations

import asyncio.sslproto
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasmlet.base.errors import UserError

BUFFER_BYTES: Final = 16 * 1024
"""One TLS record. asyncio's own 256 KiB cost 280 KiB for each connection, this about 40 (measured, libraries.md)."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Where the server's credentials are; PEM files, which `rotate` reads anew.

    Attributes:
        certificate: The serving certificate and its intermediates. May hold the key too.
        key: Its private key, not encrypted.
        client_ca: Authorities of client certificates (clientCAFile); None asks no client for a certificate.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ServingContext:
    """What new connections are served with. `client_ca` is the digest of the trusted client authorities."""

    context: ssl.SSLContext
    client_ca: str


def load(files: TlsFiles) -> ServingContext:
    """Make a context of what the files hold now: TLS ≥ 1.2, HTTP/1.1, client certificates optional.

    A client that shows a certificate which these authorities did not sign, or that has expired, fails in the
    handshake; one that shows none goes on to bearer tokens.

    Raises:
        UserError: A file is missing, is no PEM, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session would bring back the verdict of an earlier handshake on the client's certificate.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        # The password is asked for on the terminal otherwise.
        context.load_cert_chain(files.certificate, files.key, password="")
        trusted = b"" if files.client_ca is None else files.client_ca.read_bytes()
        if files.client_ca is not None:
            context.load_verify_locations(cadata=trusted.decode("ascii", errors="ignore"))
            context.verify_mode = ssl.CERT_OPTIONAL
            # As Go does: an intermediate authority in the file is an anchor, even without its root.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    except (OSError, ValueError) as error:
        names = [str(each) for each in (files.certificate, files.key, files.client_ca) if each is not None]
        raise UserError(
            f"cannot use the serving certificate in {', '.join(dict.fromkeys(names))}: {error}",
            hint="PEM files are needed: certificate, its key without a password, and the client authorities",
            reason="InvalidCertificate",
        ) from error
    return ServingContext(context=context, client_ca=hashlib.sha256(trusted).hexdigest())


def check_authorities(path: Path) -> None:
    """Raise UserError, with a reason that is a part of a sentence, unless the file holds certificates in PEM."""
    try:
        text = path.read_bytes().decode("ascii", errors="ignore")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except OSError as error:
        why = "it holds no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise UserError(f"cannot use the authorities in {path}: {why}") from error
    except ValueError as error:  # an empty file
        raise UserError(f"cannot use the authorities in {path}: it holds no certificates in PEM") from error


def bound_buffers() -> None:
    """Have asyncio's TLS take small buffers. It is a setting of the whole process; uvloop has its own."""
    asyncio.sslproto.SSLProtocol.max_size = BUFFER_BYTES
