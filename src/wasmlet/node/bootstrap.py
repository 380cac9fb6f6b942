"""The first identity: a token or a bootstrap kubeconfig → key, request, approval → a kubeconfig (contract 2)."""

from __future__ import annotations

import base64
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from wasmlet.base.clock import Clock, system_clock, to_text
from wasmlet.base.errors import ConflictError, NotFoundError, UserError, WasmletError
from wasmlet.base.files import write_atomically
from wasmlet.kube import kubeconfig
from wasmlet.kube.client import Client
from wasmlet.kube.errors import ForbiddenError, UnauthorizedError
from wasmlet.kube.kubeconfig import Access, Pem
from wasmlet.node import discovery
from wasmlet.node.certificates import CLIENT_PREFIX
from wasmlet.node.objects import NODES
from wasmlet.node.settings import check_name
from wasmlet.node.store import Store
from wasmlet.node.waiting import until_answered

__all__ = ["Joining", "bootstrap", "check_identity", "client_store", "is_ours", "join", "node_of", "usable"]

logger = logging.getLogger(__name__)

SERVER_SECONDS: Final = 300.0
SERVER_RETRY_SECONDS: Final = 2.0
CONTEXT: Final = "wasmlet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """How a node gets its identity.

    Attributes:
        node: The Node's name, for which the certificate is.
        kubeconfig: Where the identity is written (0600).
        pki_directory: Where key and certificate are kept (0700).
        approval_seconds: How long an approval is waited for. Default 3600.
        certificate_seconds: The life to ask for, 600 at least; None: what the signer gives.

    Raises:
        UserError: It can be no Node's name.
    """

    node: str
    kubeconfig: Path
    pki_directory: Path
    approval_seconds: float = 3600.0
    certificate_seconds: int | None = None

    def __post_init__(self) -> None:
        check_name(self.node)


def client_store(pki_directory: Path) -> Store:
    """Where the client certificate is."""
    return Store(pki_directory, CLIENT_PREFIX)


# --- what is there already --------------------------------------------------------------------------------------------


def usable(joining: Joining, *, now: Clock = system_clock) -> Access | None:
    """The identity from an earlier time; None when there is none, or its certificate is over.

    Raises:
        UserError: The kubeconfig is broken, or is another node's.
    """
    try:
        access = kubeconfig.load(joining.kubeconfig)
    except NotFoundError:
        return None
    if access.certificate is None:
        return access
    content = _content(access.certificate)
    if content is None:
        return None
    from wasmlet.node import keys  # noqa: PLC0415

    found = keys.certificate(content)
    if found.not_after <= now():
        logger.warning(
            "the client certificate is over since %s (this machine's clock: %s)",
            to_text(found.not_after), to_text(now()), extra={"kubeconfig": str(joining.kubeconfig)},
        )  # fmt: skip
        return None
    check_identity(access, joining.node)
    return access


def is_ours(access: Access, pki_directory: Path) -> bool:
    """Whether `bootstrap` made the client certificate, so that it is ours to renew."""
    return access.certificate == client_store(pki_directory).current.absolute()


def node_of(access: Access) -> str | None:
    """The node that the client certificate is for; None: it is no node's, or there is no certificate."""
    content = _content(access.certificate) if access.certificate is not None else None
    if content is None:
        return None
    from wasmlet.node import keys  # noqa: PLC0415

    found = keys.certificate(content)
    prefix, _, node = found.common_name.partition("system:node:")
    return node if not prefix and node and keys.GROUP in found.organizations else None


def check_identity(access: Access, node: str) -> None:
    """Raise UserError when the credential is for another node: the API server would refuse everything."""
    certified = node_of(access)
    if certified is not None and certified != node:
        raise UserError(
            f"the certificate of {access.source} is for the node {certified!r}, not for {node!r}",
            hint=f"run with --node-name {certified}, or join again under the other name",
        )


# --- getting one ------------------------------------------------------------------------------------------------------


async def join(
    joining: Joining,
    *,
    server: str,
    token: str,
    ca_hashes: Sequence[str],
    skips_ca_verification: bool = False,
    now: Clock = system_clock,
) -> Access:
    """An identity by a bootstrap token, as `kubeadm join`. One that is there already is taken.

    Args:
        server: `https://host:6443`, or without the scheme.
        ca_hashes: `sha256:{hex}` of the authority's public key.
        skips_ca_verification: The token alone is trusted when there are no hashes: whoever knows it can pretend to be
            the cluster.

    Raises:
        UserError: Something given is wrong, or the request was denied.
        ConflictError: A Node of that name is alive, or another cluster's identity is there.
        RetryableError: The API server or the approval did not come.
    """
    url, parsed = discovery.server_url(server), discovery.parse_token(token)
    discovery.check_hashes(ca_hashes)
    if not ca_hashes and not skips_ca_verification:
        raise UserError(
            "without --ca-hash anybody who knows the token could pretend to be the cluster",
            hint="on a machine of the control plane `kubeadm token create --print-join-command` prints it as "
            "--discovery-token-ca-cert-hash; or take the risk with --unsafe-skip-ca-verification",
        )
    present = usable(joining, now=now)
    if present is not None:
        if present.server != url:
            raise ConflictError(f"this node has joined {present.server} already", hint="to leave it: wasmlet leave")
        logger.info("joined already; the identity stays", extra={"node": joining.node, "server": url})
        return present
    access = await discovery.discover(server=url, token=parsed, ca_hashes=ca_hashes)
    return await bootstrap(joining, access, refuses_namesake=True, now=now)


async def bootstrap(
    joining: Joining, access: Access, *, refuses_namesake: bool = False, now: Clock = system_clock
) -> Access:
    """An identity by credentials that may only ask for one (user `system:bootstrap:{id}`).

    A second try after a crash finds the request of the first one.

    Args:
        refuses_namesake: Whether a living Node of that name ends this: two machines would fight for it.

    Raises:
        UserError: Denied, or the credentials or the directory cannot be used.
        ConflictError: See `refuses_namesake`.
        RetryableError: The API server or the approval did not come.
    """
    from wasmlet.node import keys, signing  # noqa: PLC0415

    store = client_store(joining.pki_directory)
    client = Client(access)
    try:
        await _wait_for(client, access)
        if refuses_namesake:
            await _refuse_namesake(client, joining.node)
        key = store.awaited_key(keys.new_key())
        try:
            certificate = await signing.obtain(
                client,
                signing.CLIENT,
                keys.Subject(node=joining.node),
                key,
                wait_seconds=joining.approval_seconds,
                certificate_seconds=joining.certificate_seconds,
            )
        except ForbiddenError as error:
            hint = "a cluster that kubeadm did not make lets tokens ask by: kubectl apply -f deploy/rbac.yaml"
            raise ForbiddenError(error.message, hint=hint, reason=error.reason) from error
        except WasmletError as error:
            if error.reason in (signing.DENIED, "Failed"):
                store.forget_key()  # with the same key the next try would meet the same answer
            raise
    finally:
        await client.close()
    pair = store.save(certificate, key, now=now())
    write_kubeconfig(joining.kubeconfig, access, pair)
    logger.info("joined", extra={"node": joining.node, "server": access.server})
    return kubeconfig.load(joining.kubeconfig)


async def _wait_for(client: Client, access: Access) -> None:
    """Until the API server says it is healthy, five minutes at most."""

    async def ask() -> None:
        try:
            await client.raw("GET", "/healthz", what="reach the API server")
        except ForbiddenError:
            pass  # it is there; what follows says what is missing
        except UnauthorizedError as error:
            raise _unknown(access, error) from None

    server = f"the API server {access.server}"
    await until_answered(ask, client, server=server, seconds=SERVER_SECONDS, retry_seconds=SERVER_RETRY_SECONDS)


def _unknown(access: Access, error: UnauthorizedError) -> UnauthorizedError:
    """A new server may not know its tokens yet, so this is tried on too."""
    return UnauthorizedError(
        f"the API server {access.server} does not know the credentials of {access.source} (401 Unauthorized)",
        hint="the token may be mistyped, or over: kubeadm token create makes another",
        reason=error.reason,
    )


async def _refuse_namesake(client: Client, node: str) -> None:
    # Rights to look are kubeadm's; elsewhere it goes without.
    with contextlib.suppress(NotFoundError, ForbiddenError):
        ready = (await client.get(NODES, node)).condition("Ready")
        if ready is not None and ready.status == "True":
            raise ConflictError(
                f"a Node {node!r} is Ready in the cluster already",
                hint=f"choose another name with --node-name, or: kubectl delete node {node}",
            )


def write_kubeconfig(path: Path, access: Access, pair: Path) -> None:
    """Write the identity: certificate and key in one file that rotation replaces.

    Raises:
        UserError: It cannot be written, or the authority's file cannot be read.
    """
    cluster: dict[str, Any] = {"server": access.server}
    if access.authority is not None:
        authority = _content(access.authority)
        if authority is None:
            raise UserError(f"cannot read the authority that {access.source} names")
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    if access.is_insecure:
        cluster["insecure-skip-tls-verify"] = True
    if access.tls_server_name is not None:
        cluster["tls-server-name"] = access.tls_server_name
    user = {"client-certificate": str(pair.absolute()), "client-key": str(pair.absolute())}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": CONTEXT, "cluster": cluster}],
        "users": [{"name": CONTEXT, "user": user}],
        "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
        "current-context": CONTEXT,
    }
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, yaml.safe_dump(document, sort_keys=False).encode(), mode=0o600)
    except OSError as error:
        raise UserError(f"cannot write the kubeconfig {path}: {error.strerror}") from error


def _content(pem: Pem) -> bytes | None:
    if isinstance(pem, bytes):
        return pem
    try:
        return pem.read_bytes()
    except OSError:
        return None
