"""Where ConfigMaps and Secrets come from: one seam, and the implementation that holds a run's own documents.

Volumes and environments ask an `Objects`; with a cluster it is a cache of watches, without one it is `Documents`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Protocol

import msgspec

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.kube.types import ConfigMap, Secret

__all__ = ["Documents", "Objects", "config_map_content", "secret_content"]

DEFAULT_NAMESPACE = "default"


class Objects(Protocol):
    """A source of configuration objects."""

    async def config_map(self, namespace: str, name: str) -> ConfigMap:
        """The ConfigMap.

        Raises:
            NotFoundError: reason NotFound, message `configmap "x" not found`.
            RetryableError: The source is away.
        """

    async def secret(self, namespace: str, name: str) -> Secret:
        """The Secret; `data` holds everything, `string_data` is empty.

        Raises:
            NotFoundError: reason NotFound, message `secret "x" not found`.
            RetryableError: The source is away.
        """


class Documents:
    """The ConfigMaps and Secrets of a run's manifests. A later document replaces an earlier one of the same name.

    A missing namespace means "default"; a Secret's `stringData` is merged into its `data`, as the API server does.
    """

    def __init__(self, *, config_maps: Iterable[ConfigMap] = (), secrets: Iterable[Secret] = ()) -> None:
        self._config_maps: dict[tuple[str, str], ConfigMap] = {}
        self._secrets: dict[tuple[str, str], Secret] = {}
        for config_map in config_maps:
            self.put_config_map(config_map)
        for secret in secrets:
            self.put_secret(secret)

    def put_config_map(self, config_map: ConfigMap) -> None:
        """Add or replace."""
        self._config_maps[_key(config_map)] = config_map

    def put_secret(self, secret: Secret) -> None:
        """Add or replace."""
        plain = {key: base64.b64encode(value.encode()).decode() for key, value in secret.string_data.items()}
        self._secrets[_key(secret)] = msgspec.structs.replace(secret, data={**secret.data, **plain}, string_data={})

    async def config_map(self, namespace: str, name: str) -> ConfigMap:
        """See `Objects`."""
        try:
            return self._config_maps[namespace or DEFAULT_NAMESPACE, name]
        except KeyError:
            raise NotFoundError(f'configmap "{name}" not found', reason="NotFound") from None

    async def secret(self, namespace: str, name: str) -> Secret:
        """See `Objects`."""
        try:
            return self._secrets[namespace or DEFAULT_NAMESPACE, name]
        except KeyError:
            raise NotFoundError(f'secret "{name}" not found', reason="NotFound") from None

    def __repr__(self) -> str:
        return f"Documents({len(self._config_maps)} config maps, {len(self._secrets)} secrets)"


def config_map_content(config_map: ConfigMap) -> dict[str, bytes]:
    """`data` and `binaryData` together, as bytes.

    Raises:
        UserError: A `binaryData` value is not base64.
    """
    content = {key: value.encode() for key, value in config_map.data.items()}
    where = f"ConfigMap {config_map.metadata.namespace}/{config_map.metadata.name}"
    return content | {key: _decoded(value, key=key, where=where) for key, value in config_map.binary_data.items()}


def secret_content(secret: Secret) -> dict[str, bytes]:
    """`data` decoded.

    Raises:
        UserError: A value is not base64; the message names the key, never the value.
    """
    where = f"Secret {secret.metadata.namespace}/{secret.metadata.name}"
    return {key: _decoded(value, key=key, where=where) for key, value in secret.data.items()}


def _key(thing: ConfigMap | Secret) -> tuple[str, str]:
    return thing.metadata.namespace or DEFAULT_NAMESPACE, thing.metadata.name


def _decoded(value: str, *, key: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        # No chaining: the cause may quote what is secret.
        raise UserError(f"key {key} of {where} is not base64", hint="plain text belongs into stringData") from None
