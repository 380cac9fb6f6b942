"""A kubeconfig file → `Access`: where the API server is and who we are.

Reads what client-go reads, apart from what was removed there or means nothing to a node (auth-provider, user name and
password, impersonation, proxy-url): those are refused, since without them we would be somebody else. Relative paths
start at the kubeconfig's own directory.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from wasmlet.base.errors import NotFoundError, UserError

__all__ = ["Access", "ExecPlugin", "Pem", "load"]

MAX_BYTES: Final = 4 << 20
"""More than any kubeconfig has; one for a hundred clusters has half a megabyte."""

EXEC_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")

Pem = Path | bytes
"""Certificates or a key: a file, read each time that connections begin anew, or the text itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecPlugin:
    """A program that prints an ExecCredential (client.authentication.k8s.io).

    Attributes:
        command: A name that is looked up in PATH, or a path.
        environment: Added to the agent's own; may hold secrets.
        passes_cluster: Whether the program is told about the cluster (provideClusterInfo).
        hint: What to do when it is missing (installHint).
        directory: Where a relative path as command starts.
    """

    api_version: str
    command: str
    arguments: tuple[str, ...] = field(default=(), repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    passes_cluster: bool = False
    hint: str = ""
    directory: Path = Path()


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where an API server is, how it is known, and who we are to it.

    Attributes:
        source: What to call this in messages: the file it came from.
        server: `https://host:port`, maybe with a path, without a slash at its end. Plain http is possible.
        authority: The certificate authorities that sign the server's certificate; None: the system's.
        is_insecure: The server's certificate is not checked.
        tls_server_name: The name its certificate must have; None: the host of `server`.
        certificate, key: Our client certificate; both or none.
        token: A bearer token.
        token_file: A file with one, which is read again when it changes; it beats `token`.
        exec: A program that gives a token or a certificate, asked when there is none of the others.
        namespace: Of the context; empty when it names none.
    """

    source: str
    server: str
    authority: Pem | None = field(default=None, repr=False)
    is_insecure: bool = False
    tls_server_name: str | None = None
    certificate: Pem | None = field(default=None, repr=False)
    key: Pem | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    exec: ExecPlugin | None = None
    namespace: str = ""


# --- the file's structs -----------------------------------------------------------------------------------------------


class _Struct(msgspec.Struct, rename="kebab", kw_only=True):
    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # never what it holds


class _Cluster(_Struct):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _Variable(_Struct):
    name: str
    value: str = ""


class _Exec(_Struct, rename="camel"):
    api_version: str = ""
    command: str = ""
    args: list[str] | None = None
    env: list[_Variable] | None = None
    provide_cluster_info: bool = False
    interactive_mode: str = ""
    install_hint: str = ""


class _User(_Struct):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")
    exec: _Exec | None = None
    username: str = ""
    impersonate: str = msgspec.field(default="", name="as")
    auth_provider: dict[str, Any] | None = None


class _Context(_Struct):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _Named(_Struct):
    name: str = ""
    cluster: dict[str, Any] | None = None
    user: dict[str, Any] | None = None
    context: dict[str, Any] | None = None


class _File(_Struct):
    current_context: str = ""
    clusters: list[_Named] | None = None
    users: list[_Named] | None = None
    contexts: list[_Named] | None = None


T = TypeVar("T", bound=msgspec.Struct)


# --- loading ----------------------------------------------------------------------------------------------------------


def load(path: Path, *, context: str = "") -> Access:
    """The access that a kubeconfig gives.

    Args:
        context: The context's name; empty: the file's current-context.

    Raises:
        NotFoundError: There is no such file.
        UserError: It cannot be read, is no kubeconfig, or asks for what wasmlet does not do; the message names file
            and field.
    """
    file = _converted(_document(path), _File, str(path))
    name = context or file.current_context
    if not name:
        raise UserError(f"{path} has no current-context", hint="set it: kubectl config use-context")
    chosen = _converted(_entry(file.contexts, name, "context", path), _Context, f"{path}: context {name!r}")
    where = f"{path}: cluster {chosen.cluster!r}"
    cluster = _converted(_entry(file.clusters, chosen.cluster, "cluster", path), _Cluster, where)
    user_where = f"{path}: user {chosen.user!r}"
    user = _User()
    if chosen.user:
        user = _converted(_entry(file.users, chosen.user, "user", path), _User, user_where)
    _refuse(cluster, user, where, user_where)
    certificate = _pem(user.client_certificate, user.client_certificate_data, "client-certificate", path, user_where)
    key = _pem(user.client_key, user.client_key_data, "client-key", path, user_where)
    if (certificate is None) != (key is None):
        raise UserError(f"{user_where} has only one of client-certificate and client-key", hint="give both")
    return Access(
        source=str(path),
        server=_server(cluster.server, where),
        authority=_pem(
            cluster.certificate_authority, cluster.certificate_authority_data, "certificate-authority", path, where
        ),
        is_insecure=cluster.insecure_skip_tls_verify,
        tls_server_name=cluster.tls_server_name or None,
        certificate=certificate,
        key=key,
        token=user.token or None,
        token_file=path.parent / user.token_file if user.token_file else None,
        exec=_plugin(user.exec, path, user_where) if user.exec is not None else None,
        namespace=chosen.namespace,
    )


def _document(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"kubeconfig {path} does not exist") from error
    except OSError as error:
        raise UserError(f"cannot read kubeconfig {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES} bytes, which is no kubeconfig")
    try:
        return yaml.load(content, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        # Neither chained nor quoted: the parser's words hold the file's text, which may be a token.
        raise UserError(f"{path} is not YAML{place}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{path} is not YAML") from None


def _converted(document: Any, model: type[T], where: str) -> T:
    try:
        return msgspec.convert(_without_nulls(document), model)
    except msgspec.ValidationError as error:
        problem, _, field_path = str(error).partition(" - at ")
        name = field_path.strip("`").removeprefix("$.").removeprefix("$") or "it"
        raise UserError(f"{where}: {name}: {problem.lower()}") from None


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def _entry(entries: list[_Named] | None, name: str, kind: str, path: Path) -> dict[str, Any]:
    for each in entries or []:
        if each.name == name:
            return getattr(each, kind) or {}
    known = ", ".join(repr(each.name) for each in entries or []) or "none"
    raise UserError(f"{path} has no {kind} {name!r}", hint=f"it has {known}")


def _server(server: str, where: str) -> str:
    parts = urlsplit(server)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{where}: server must be an https URL")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"{where}: server must be a plain URL, without user, query or fragment")
    return server.rstrip("/")


def _refuse(cluster: _Cluster, user: _User, where: str, user_where: str) -> None:
    """Say so when the file asks for what would make us somebody else, or go another way, than the user thinks."""
    if cluster.proxy_url:
        raise UserError(f"{where}: proxy-url is not supported", hint="reach the API server directly")
    for name, value in (("username", user.username), ("as", user.impersonate), ("auth-provider", user.auth_provider)):
        if value:
            raise UserError(f"{user_where}: {name} is not supported", hint="use a certificate, a token or exec")


def _pem(file: str, text: str, name: str, path: Path, where: str) -> Pem | None:
    """Text beats file, as in client-go."""
    if text:
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise UserError(f"{where}: {name}-data is not base64") from None
    return path.parent / file if file else None


def _plugin(plugin: _Exec, path: Path, where: str) -> ExecPlugin:
    if not plugin.command:
        raise UserError(f"{where}: exec.command is missing")
    if plugin.api_version not in EXEC_VERSIONS:
        raise UserError(f"{where}: exec.apiVersion must be {EXEC_VERSIONS[0]}, not {plugin.api_version!r}")
    if plugin.interactive_mode == "Always":
        raise UserError(f"{where}: exec.interactiveMode Always needs a terminal, which an agent does not have")
    return ExecPlugin(
        api_version=plugin.api_version,
        command=plugin.command,
        arguments=tuple(plugin.args or ()),
        environment={each.name: each.value for each in plugin.env or ()},
        passes_cluster=plugin.provide_cluster_info,
        hint=plugin.install_hint,
        directory=path.parent,
    )
