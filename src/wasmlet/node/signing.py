"""Asking the cluster for a certificate: a CertificateSigningRequest, and the wait for its answer (contract 2)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from dataclasses import dataclass
from typing import Final

from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import AlreadyExistsError
from wasmlet.kube.types import ObjectMeta
from wasmlet.kube.watch import Added, Deleted, Modified, watch_resource
from wasmlet.node import keys
from wasmlet.node.objects import SIGNING_REQUESTS, SigningRequest, SigningRequestSpec

__all__ = ["CLIENT", "DENIED", "SERVING", "Purpose", "obtain"]

logger = logging.getLogger(__name__)

DENIED: Final = "Denied"
"""Reason of the error when somebody said no."""

REMINDER_SECONDS: Final = 10.0
"""After these it is told, once, that a request is not approved yet."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a certificate is for.

    Attributes:
        signer: signerName.
        usages: As EC keys have them.
    """

    signer: str
    usages: tuple[str, ...]


CLIENT: Final = Purpose("kubernetes.io/kube-apiserver-client-kubelet", ("digital signature", "client auth"))
SERVING: Final = Purpose("kubernetes.io/kubelet-serving", ("digital signature", "server auth"))


async def obtain(
    client: Client,
    purpose: Purpose,
    subject: keys.Subject,
    key_pem: bytes,
    *,
    wait_seconds: float | None,
    certificate_seconds: int | None = None,
) -> bytes:
    """The certificate (PEM, with its chain) for `key_pem`. Asking twice with the same key is asking once.

    Args:
        wait_seconds: How long an approval is waited for; None: as long as the request is there.
        certificate_seconds: The life to ask for.

    Raises:
        UserError: Denied (reason `Denied`), or the API server refuses the request itself.
        RetryableError: The request failed, went away, or nobody answered it in time.
    """
    name = keys.request_name(key_pem, subject, purpose.usages)
    body = SigningRequest(
        metadata=ObjectMeta(name=name),
        spec=SigningRequestSpec(
            request=base64.b64encode(keys.request(key_pem, subject)).decode(),
            signer_name=purpose.signer,
            usages=list(purpose.usages),
            expiration_seconds=certificate_seconds,
        ),
    )
    with contextlib.suppress(AlreadyExistsError):
        await client.create(SIGNING_REQUESTS, body)
        logger.info("certificate requested", extra={"request": name, "signer": purpose.signer})
    reminder = asyncio.get_running_loop().call_later(REMINDER_SECONDS, _remind, name)
    try:
        async with asyncio.timeout(wait_seconds):
            answer = await _answer(client, name, purpose)
    except TimeoutError:
        raise RetryableError(
            f"nobody answered the certificate request {name} within {wait_seconds:g} s",
            hint=f"an administrator can: kubectl certificate approve {name}",
            reason="NotApproved",
        ) from None
    finally:
        reminder.cancel()
    if not keys.fits(answer, key_pem):
        raise RetryableError(f"the certificate of request {name} is for another key")
    return answer


def _remind(name: str) -> None:
    """Approvals by a controller come within a second; whoever looks on should know that this one is a person's."""
    logger.info("the certificate request waits for an approval: kubectl certificate approve %s", name)


async def _answer(client: Client, name: str, purpose: Purpose) -> bytes:
    """Watch the request until it has its certificate."""
    events = watch_resource(client, SIGNING_REQUESTS, field_selector=f"metadata.name={name}", is_fresh=True)
    async with contextlib.aclosing(events):
        async for event in events:
            match event:
                case Added(request) | Modified(request):
                    if certificate := decide(request, purpose):
                        return certificate
                case Deleted():
                    raise RetryableError(f"the certificate request {name} was deleted", reason="Deleted")
    raise WasmletError("the watch ended")


def decide(request: SigningRequest, purpose: Purpose) -> bytes | None:
    """The certificate; None: wait on.

    Raises:
        UserError: Denied, or a request of that name asks for something else.
        RetryableError: It failed.
    """
    name = request.metadata.name
    if request.spec.signer_name != purpose.signer:
        raise UserError(f"the certificate request {name} is for the signer {request.spec.signer_name!r}, not for ours")
    for each in request.status.conditions or []:
        said = f" ({each.reason}: {each.message})" if each.message else ""
        if each.type == DENIED:
            raise UserError(
                f"the certificate request {name} was denied{said}",
                hint="ask an administrator of the cluster, then try again",
                reason=DENIED,
            )
        if each.type == "Failed":
            raise RetryableError(f"the certificate request {name} failed{said}", reason="Failed")
    if not request.status.certificate:
        return None
    try:
        return base64.b64decode(request.status.certificate, validate=True)
    except ValueError:
        raise RetryableError(f"the certificate of request {name} cannot be read") from None
