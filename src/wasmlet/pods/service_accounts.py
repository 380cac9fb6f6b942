"""Service accounts of the cluster's pods: tokens for volumes, and what credential providers ask of them."""

from __future__ import annotations

from collections.abc import Mapping

from wasmlet.kube.client import Client
from wasmlet.kube.tokens import SERVICE_ACCOUNTS, TokenSource, Wanted
from wasmlet.kube.types import Pod, ServiceAccountTokenProjection

__all__ = ["PodAccount", "PodTokens"]


class PodTokens:
    """Service account tokens for projected volumes."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def token(self, pod: Pod, projection: ServiceAccountTokenProjection) -> str:
        """A token of the pod's account that is good for a while."""
        meta = pod.metadata
        wanted = Wanted(
            namespace=meta.namespace,
            pod=meta.name,
            pod_uid=meta.uid,
            service_account=pod.spec.service_account_name or "default",
            audience=projection.audience,
            expiration_seconds=projection.expiration_seconds or 3607,
        )
        return (await self._source.token(wanted)).value

    def release(self, uid: str) -> None:
        """The pod is gone."""
        self._source.release(uid)


class PodAccount:
    """The service account of a pod of the cluster (images.sources.Account)."""

    def __init__(self, pod: Pod, client: Client, tokens: PodTokens) -> None:
        self._pod = pod
        self._client = client
        self._tokens = tokens

    @property
    def namespace(self) -> str:
        """The pod's."""
        return self._pod.metadata.namespace

    @property
    def name(self) -> str:
        """The account's."""
        return self._pod.spec.service_account_name

    async def look(self) -> tuple[str, Mapping[str, str]]:
        """Its UID and annotations. Raises WasmletError."""
        found = await self._client.get(SERVICE_ACCOUNTS, self.name, namespace=self.namespace)
        return found.metadata.uid, found.metadata.annotations

    async def token(self, audience: str) -> str:
        """A token for the audience. Raises WasmletError."""
        return await self._tokens.token(self._pod, ServiceAccountTokenProjection(audience=audience))
