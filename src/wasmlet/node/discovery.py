"""From a bootstrap token to a cluster that can be trusted, as `kubeadm join` does it.

Anybody may read the ConfigMap `cluster-info`; what it says counts because it is signed with the token (a JWS whose key
is the token's secret half), and because the authority in it has the public key that `--ca-hash` pins. Then it is read
a second time, from a server that shows a certificate of that authority.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.kube.client import Client
from wasmlet.kube.kubeconfig import Access
from wasmlet.kube.resources import CONFIG_MAPS
from wasmlet.kube.types import ConfigMap
from wasmlet.node.waiting import until_answered

__all__ = ["Token", "check_hashes", "discover", "parse_token", "server_url", "verify_signature"]

logger = logging.getLogger(__name__)

NAMESPACE: Final = "kube-public"
NAME: Final = "cluster-info"
DISCOVERY_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 5.0
"""Both as kubeadm's: the signature appears a little after the token."""

MAX_BYTES: Final = 1 << 20
_TOKEN: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Token:
    """A bootstrap token: its public half, and its secret one."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The whole, as a bearer token. Secret."""
        return f"{self.id}.{self.secret}"


def parse_token(text: str) -> Token:
    """`abcdef.0123456789abcdef`.

    Raises:
        UserError: It is no token. The message does not quote it.
    """
    if (match := _TOKEN.fullmatch(text.strip())) is None:
        raise UserError("this is no bootstrap token", hint="make one with: kubeadm token create --print-join-command")
    return Token(match[1], match[2])


def check_hashes(hashes: Sequence[str]) -> None:
    """Raise UserError unless all are `sha256:{hex}`."""
    for each in hashes:
        if not _HASH.fullmatch(each.lower()):
            raise UserError(f"{each!r} is no hash of an authority", hint="write it like sha256:{64 hex digits}")


def server_url(text: str) -> str:
    """`host:6443` or a URL → `https://host:6443`.

    Raises:
        UserError: It is neither, or is not https: the token would be readable by anybody on the way.
    """
    url = text if "://" in text else f"https://{text}"
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise UserError(f"{text!r} is no API server", hint="write it like https://10.0.0.1:6443")
    return url.rstrip("/")


async def discover(*, server: str, token: Token, ca_hashes: Sequence[str]) -> Access:
    """Who the cluster is: its authority, verified, and the token as our identity.

    Args:
        server: `https://host:port`.
        ca_hashes: One of them must be the authority's. Empty: the signature with the token is enough, so whoever
            knows the token can pretend to be the cluster.

    Raises:
        UserError: The cluster is another one, or does not know the token.
        RetryableError: It cannot be reached within five minutes.
    """
    check_hashes(ca_hashes)
    unverified = Access(source="wasmlet join", server=server, is_insecure=True)
    authority = await _verified_authority(unverified, token, ca_hashes)
    access = replace(unverified, is_insecure=False, authority=authority)
    if await _verified_authority(access, token, ca_hashes) != authority:
        raise UserError(f"{server} gives another authority when it is asked a second time", hint="somebody interferes")
    return replace(access, token=token.text)


async def _verified_authority(access: Access, token: Token, ca_hashes: Sequence[str]) -> bytes:
    client = Client(access)

    async def ask() -> bytes:
        try:
            return _authority(await client.get(CONFIG_MAPS, NAME, namespace=NAMESPACE), token, ca_hashes)
        except NotFoundError:
            raise UserError(
                f"{access.server} has no public {NAME}, by which a token could be trusted",
                hint="use wasmlet node --bootstrap-kubeconfig instead",
            ) from None

    try:
        return await until_answered(
            ask, client, server=access.server, seconds=DISCOVERY_SECONDS, retry_seconds=RETRY_SECONDS
        )
    finally:
        await client.close()


def _authority(found: ConfigMap, token: Token, ca_hashes: Sequence[str]) -> bytes:
    """The authority in a cluster-info (PEM).

    Raises:
        UserError: It is not signed by this token, or is not the one that is pinned.
        RetryableError: It is not signed yet.
    """
    kubeconfig = found.data.get("kubeconfig", "")
    signature = found.data.get(f"jws-kubeconfig-{token.id}")
    if not kubeconfig or len(kubeconfig) > MAX_BYTES:
        raise UserError(f"{NAME} holds no kubeconfig")
    if signature is None:
        raise RetryableError(
            f"{NAME} is not signed with the token {token.id}", hint="the token may be unknown, or over: make another"
        )
    if not verify_signature(signature, kubeconfig.encode(), token):
        raise UserError(f"{NAME} is not signed with this token", hint="check the token; or another server answers here")
    authority = _embedded_authority(kubeconfig)
    if ca_hashes:
        from wasmlet.node import keys  # noqa: PLC0415

        known = {each.lower() for each in ca_hashes}
        # All of them: one that is not pinned could sign for somebody else.
        if others := sorted(set(keys.pins(authority)) - known):
            raise UserError(
                f"the cluster's authority has another hash than --ca-hash: {', '.join(others)}",
                hint="check --server and --ca-hash; if both are right, somebody else answers there",
            )
    return authority


def _embedded_authority(kubeconfig: str) -> bytes:
    try:
        document: Any = yaml.load(kubeconfig, Loader=yaml.CSafeLoader)
        clusters = document["clusters"]
        if len(clusters) != 1:
            raise ValueError
        return base64.b64decode(clusters[0]["cluster"]["certificate-authority-data"], validate=True)
    except (yaml.YAMLError, KeyError, TypeError, IndexError, ValueError, binascii.Error):
        raise UserError(f"{NAME} holds no cluster with certificate-authority-data") from None


def verify_signature(signature: str, content: bytes, token: Token) -> bool:
    """Whether a detached JWS (`header..signature`, HS256) is of `content` by `token`."""
    head, _, rest = signature.partition(".")
    payload, dot, mac = rest.partition(".")
    try:
        header = json.loads(_decoded(head))
        given = _decoded(mac)
    except ValueError:
        return False
    if payload or not dot or not isinstance(header, dict):
        return False
    if header.get("alg") != "HS256" or header.get("kid") != token.id:
        return False
    message = head.encode() + b"." + base64.urlsafe_b64encode(content).rstrip(b"=")
    return hmac.compare_digest(given, hmac.new(token.secret.encode(), message, hashlib.sha256).digest())


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
