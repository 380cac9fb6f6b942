"""secret volumes: the keys of a Secret as files. Contents appear in no message and no `repr`.

They lie on disk with the modes that the pod asks for, inside a directory that only the agent and the volume's group
can enter; unlike the kubelet's they are not on a tmpfs.
"""

from __future__ import annotations

from collections.abc import Sequence

from wasmlet.base.errors import NotFoundError
from wasmlet.kube.objects import Objects, secret_content
from wasmlet.kube.types import KeyToPath
from wasmlet.volumes.atomic import PayloadFile
from wasmlet.volumes.config_map import select

__all__ = ["collect"]


async def collect(
    namespace: str, name: str, *, items: Sequence[KeyToPath], optional: bool, default_mode: int, objects: Objects
) -> dict[str, PayloadFile]:
    """The files of a Secret: all keys under their own names, or the listed ones under theirs.

    Raises:
        NotFoundError: There is no such Secret, and it is not optional.
        UserError: A listed key is missing, and the volume is not optional.
        RetryableError: The source of objects is away.
    """
    try:
        content = secret_content(await objects.secret(namespace, name))
    except NotFoundError:
        if not optional:
            raise
        content = {}
    missing = "references non-existent secret key"
    return select(content, items=items, optional=optional, default_mode=default_mode, missing=missing)
