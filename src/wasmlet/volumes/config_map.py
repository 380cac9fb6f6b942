"""configMap volumes: the keys of a ConfigMap as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.kube.objects import Objects, config_map_content
from wasmlet.kube.types import KeyToPath
from wasmlet.volumes.atomic import PayloadFile

__all__ = ["collect", "select"]


async def collect(
    namespace: str, name: str, *, items: Sequence[KeyToPath], optional: bool, default_mode: int, objects: Objects
) -> dict[str, PayloadFile]:
    """The files of a ConfigMap: all keys under their own names, or the listed ones under theirs.

    Raises:
        NotFoundError: There is no such ConfigMap, and it is not optional.
        UserError: A listed key is missing, and the volume is not optional.
        RetryableError: The source of objects is away.
    """
    try:
        content = config_map_content(await objects.config_map(namespace, name))
    except NotFoundError:
        if not optional:
            raise
        content = {}
    missing = "configmap references non-existent config key"
    return select(content, items=items, optional=optional, default_mode=default_mode, missing=missing)


def select(
    content: Mapping[str, bytes], *, items: Sequence[KeyToPath], optional: bool, default_mode: int, missing: str
) -> dict[str, PayloadFile]:
    """What `items` choose of `content`; all of it when there are none.

    Args:
        missing: The error's beginning; ": {key}" follows.

    Raises:
        UserError: A listed key is missing and `optional` is false.
    """
    if not items:
        return {key: PayloadFile(value, default_mode) for key, value in content.items()}
    payload = {}
    for item in items:
        if item.key in content:
            payload[item.path] = PayloadFile(content[item.key], default_mode if item.mode is None else item.mode)
        elif not optional:
            raise UserError(f"{missing}: {item.key}")
    return payload
