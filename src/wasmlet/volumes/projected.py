"""projected volumes: several sources in one directory, a later source wins over an earlier one."""

from __future__ import annotations

from typing import Protocol

from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.kube.objects import Objects
from wasmlet.kube.types import Pod, ProjectedVolume, ServiceAccountTokenProjection, VolumeProjection
from wasmlet.volumes import config_map, downward_api, secret
from wasmlet.volumes.atomic import DEFAULT_MODE, PayloadFile
from wasmlet.volumes.fields import PodFields

__all__ = ["Tokens", "collect"]


class Tokens(Protocol):
    """Where service account tokens come from; only a cluster gives them (contract 6.3)."""

    async def token(self, pod: Pod, projection: ServiceAccountTokenProjection) -> str:
        """A token for the pod's service account that is still good for a while."""


async def collect(
    pod: Pod, source: ProjectedVolume, *, objects: Objects, fields: PodFields, tokens: Tokens | None
) -> dict[str, PayloadFile]:
    """The files of all sources.

    Every source is tried, so that the message names all that is missing: one error as it is, more as `[a, b]`.

    Raises:
        NotFoundError: One object is missing and not optional.
        RetryableError: A source of objects is away.
        UserError: A source cannot be given, or several things are wrong.
    """
    default_mode = DEFAULT_MODE if source.default_mode is None else source.default_mode
    payload: dict[str, PayloadFile] = {}
    errors: list[WasmletError] = []
    for projection in source.sources:
        try:
            payload |= await _one(pod, projection, default_mode, objects=objects, fields=fields, tokens=tokens)
        except WasmletError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        kind = RetryableError if any(isinstance(error, RetryableError) for error in errors) else UserError
        raise kind("[" + ", ".join(dict.fromkeys(map(str, errors))) + "]")
    return payload


async def _one(
    pod: Pod,
    projection: VolumeProjection,
    default_mode: int,
    *,
    objects: Objects,
    fields: PodFields,
    tokens: Tokens | None,
) -> dict[str, PayloadFile]:
    for named, collector in ((projection.config_map, config_map.collect), (projection.secret, secret.collect)):
        if named is not None:
            return await collector(
                pod.metadata.namespace,
                named.name,
                items=named.items,
                optional=bool(named.optional),
                default_mode=default_mode,
                objects=objects,
            )
    if projection.downward_api is not None:
        return downward_api.collect(pod, projection.downward_api.items, default_mode=default_mode, fields=fields)
    if projection.service_account_token is not None:
        return await _token(pod, projection.service_account_token, default_mode, tokens)
    unsupported = "clusterTrustBundle" if projection.cluster_trust_bundle is not None else "podCertificate"
    if projection.pod_certificate is None and projection.cluster_trust_bundle is None:
        unsupported = "unknown"
    raise UserError(
        f"projected source of kind {unsupported} is not supported by wasmlet",
        hint="use configMap, secret, downwardAPI or serviceAccountToken",
    )


async def _token(
    pod: Pod, projection: ServiceAccountTokenProjection, mode: int, tokens: Tokens | None
) -> dict[str, PayloadFile]:
    if tokens is None:
        raise UserError(
            "a service account token needs a cluster, and this run has none",
            hint="set automountServiceAccountToken: false, or remove the serviceAccountToken source",
        )
    return {projection.path: PayloadFile((await tokens.token(pod, projection)).encode(), mode)}
