"""Who we are to the API server, from moment to moment: tokens from files, exec plugins, certificates for TLS.

Keys that came as text never touch a disk: OpenSSL reads them from a memory file (memfd).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from wasmlet.base import clock, programs
from wasmlet.base.clock import Clock
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.kube.kubeconfig import Access, ExecPlugin, Pem

__all__ = ["UNUSABLE_CREDENTIALS", "Credentials", "Identity", "tls_context"]

UNUSABLE_CREDENTIALS: Final = "UnusableCredentials"
"""Reason of errors that end when somebody puts other files in place, or sets a clock right: TLS cannot be spoken."""

TOKEN_FILE_SECONDS: Final = 60.0
"""How long a token file's content is good without a look at the file (client-go: the same)."""

EXEC_SECONDS: Final = 60.0
"""A plugin that asks a cloud takes seconds; one that waits for a person never ends."""

EXEC_MAX_BYTES: Final = 1 << 20
MAX_TOKEN_BYTES: Final = 1 << 16
EXPIRY_MARGIN_SECONDS: Final = 10.0
"""An exec credential is renewed this much before its end, so that a request does not meet it on its way."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What to present: a bearer token, a client certificate with its key, or both."""

    token: str | None = field(default=None, repr=False)
    certificate: Pem | None = field(default=None, repr=False)
    key: Pem | None = field(default=None, repr=False)


class _ExecStatus(msgspec.Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: str | None = None

    def __repr__(self) -> str:
        return "<ExecStatus>"


class _ExecCredential(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _ExecStatus | None = None


class Credentials:
    """The identity of one `Access`, kept fresh."""

    def __init__(self, access: Access, *, now: Clock = clock.system_clock) -> None:
        self._access = access
        self._now = now
        self._identity: Identity | None = None
        self._good_until = 0.0
        self._file_stamp: tuple[int, int] | None = None
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Credentials of {self._access.source}>"

    async def identity(self, *, refused: Identity | None = None) -> Identity:
        """What to present now.

        Args:
            refused: An identity that the server has just refused: if it is still the current one, it is read anew.

        Raises:
            RetryableError: The token file or the plugin gives nothing, and nothing older is good.
            UserError: The plugin does not exist.
        """
        async with self._starting:
            current = self._identity
            if current is None or self._now() >= self._good_until or current is refused:
                current = self._identity = await self._fresh()
            return current

    async def _fresh(self) -> Identity:
        access = self._access
        static = Identity(access.token, access.certificate, access.key)
        if access.token_file is not None:
            self._good_until = self._now() + TOKEN_FILE_SECONDS
            return self._from_file(access.token_file)
        if access.exec is not None and access.token is None and access.certificate is None:
            identity, self._good_until = await _from_plugin(access, access.exec)
            return identity
        self._good_until = float("inf")
        return self._identity or static

    def _from_file(self, path: Path) -> Identity:
        """The file's token; the one before when the file is as it was, or cannot be read just now."""
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if self._identity is not None and stamp == self._file_stamp:
                return self._identity
            with path.open("rb") as stream:
                content = stream.read(MAX_TOKEN_BYTES)
            token = content.decode("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            if self._identity is not None:
                return self._identity
            why = error.strerror if isinstance(error, OSError) else "it is not plain text"
            raise RetryableError(f"cannot read the token file {path}: {why}") from None
        if not token or any(character.isspace() for character in token):
            if self._identity is not None:
                return self._identity
            raise RetryableError(f"the token file {path} holds no token")
        self._file_stamp = stamp
        return Identity(token, self._access.certificate, self._access.key)


# --- exec plugins -----------------------------------------------------------------------------------------------------


async def _from_plugin(access: Access, plugin: ExecPlugin) -> tuple[Identity, float]:
    """What the plugin gives, and until when it is good (seconds since the epoch)."""
    output = await _run(access, plugin)
    what = f"{access.source}: the credential plugin {plugin.command}"
    try:
        credential = msgspec.json.decode(output, type=_ExecCredential)
    except msgspec.DecodeError:
        raise RetryableError(f"{what} did not print an ExecCredential") from None
    status = credential.status
    if credential.kind != "ExecCredential" or status is None:
        raise RetryableError(f"{what} printed no ExecCredential with a status")
    if credential.api_version != plugin.api_version:
        raise UserError(f"{what} speaks {credential.api_version!r}, the kubeconfig says {plugin.api_version}")
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise RetryableError(f"{what} gave only one of certificate and key")
    if not status.token and not status.client_certificate_data:
        raise RetryableError(f"{what} gave neither a token nor a certificate")
    until = float("inf")
    if status.expiration_timestamp is not None:
        try:
            until = clock.from_text(status.expiration_timestamp) - EXPIRY_MARGIN_SECONDS
        except ValueError:
            raise RetryableError(f"{what} gave an expirationTimestamp that is no time") from None
    certificate = status.client_certificate_data.encode() or None
    return Identity(status.token or None, certificate, status.client_key_data.encode() or None), until


async def _run(access: Access, plugin: ExecPlugin) -> bytes:
    """The plugin's output. Its standard error is thrown away: it may quote what it was given."""
    what = f"{access.source}: the credential plugin {plugin.command}"
    command = str(plugin.directory / plugin.command) if "/" in plugin.command else plugin.command
    try:
        answer = await programs.ask(
            [command, *plugin.arguments],
            environment={**os.environ, **plugin.environment, "KUBERNETES_EXEC_INFO": _exec_info(access, plugin)},
            seconds=EXEC_SECONDS,
            most_bytes=EXEC_MAX_BYTES,
        )
    except TimeoutError:
        raise RetryableError(f"{what} did not end within {EXEC_SECONDS:g} s") from None
    except OSError as error:
        raise UserError(f"{what} cannot be started: {error.strerror}", hint=plugin.hint or None) from None
    if answer.status != 0:
        problem = (
            f"printed more than {EXEC_MAX_BYTES} bytes" if answer.status is None else f"ended with {answer.status}"
        )
        raise RetryableError(f"{what} {problem}", hint=plugin.hint or "run it by hand to see why")
    return answer.output


def _exec_info(access: Access, plugin: ExecPlugin) -> str:
    """The plugin's input, as client-go gives it."""
    spec: dict[str, Any] = {"interactive": False}
    if plugin.passes_cluster:
        cluster: dict[str, Any] = {"server": access.server}
        if access.tls_server_name is not None:
            cluster["tls-server-name"] = access.tls_server_name
        if access.is_insecure:
            cluster["insecure-skip-tls-verify"] = True
        if access.authority is not None:
            cluster["certificate-authority-data"] = _content(access.authority, access.source)  # base64 by msgspec
        spec["cluster"] = cluster
    document = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    return msgspec.json.encode(document).decode()


# --- TLS --------------------------------------------------------------------------------------------------------------


def tls_context(access: Access, identity: Identity) -> ssl.SSLContext:
    """How to speak TLS to the server. Reads files; takes some 20 ms when the system's authorities are asked for.

    Raises:
        UserError: A file cannot be read, or is no certificate or key; the message names it.
    """
    context = _verifying_context(access)
    # Python 3.13 adds this; authorities made by kubeadm before 1.30 and by others lack the key identifiers it wants.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if access.is_insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if identity.certificate is not None and identity.key is not None:
        _load_pair(context, access, identity.certificate, identity.key)
    return context


def _verifying_context(access: Access) -> ssl.SSLContext:
    if access.authority is None:
        return ssl.create_default_context()
    text = _content(access.authority, access.source).decode("ascii", errors="replace")
    try:
        if not text.strip():  # for which Python would trust the system's authorities
            raise ValueError
        return ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        what = access.authority if isinstance(access.authority, Path) else f"{access.source}: the authority's data"
        raise UserError(f"{what} holds no PEM certificates", reason=UNUSABLE_CREDENTIALS) from None


def _load_pair(context: ssl.SSLContext, access: Access, certificate: Pem, key: Pem) -> None:
    both = _content(certificate, access.source)
    if key != certificate:  # a kubelet keeps both in one file
        both += b"\n" + _content(key, access.source)
    try:
        with _memory_file(both) as path:
            # Without a password argument OpenSSL would ask the terminal for one.
            context.load_cert_chain(path, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        files = " and ".join(str(each) for each in (certificate, key) if isinstance(each, Path))
        problem = error.reason if isinstance(error, ssl.SSLError) and error.reason else "the key is encrypted"
        where = files or f"client-certificate-data of {access.source}"
        raise UserError(
            f"the client certificate and key in {where} cannot be used: {problem}", reason=UNUSABLE_CREDENTIALS
        ) from None


def _no_password() -> str:
    raise ValueError


@contextlib.contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """A name under which this process can read `content`; nobody else's, and on no disk."""
    descriptor = os.memfd_create("wasmlet", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as stream:
            stream.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _content(pem: Pem, source: str) -> bytes:
    if isinstance(pem, bytes):
        return pem
    try:
        return pem.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {pem} (named by {source}): {error.strerror}", reason=UNUSABLE_CREDENTIALS
        ) from error
