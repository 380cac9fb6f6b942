"""downwardAPI volumes: a pod's own metadata and resources as files, which follow changes of labels and annotations."""

from __future__ import annotations

from collections.abc import Sequence

from wasmlet.base.errors import UserError
from wasmlet.kube.types import DownwardFile, Pod
from wasmlet.volumes.atomic import PayloadFile
from wasmlet.volumes.fields import PodFields, metadata_text, resource_text

__all__ = ["collect"]


def collect(pod: Pod, items: Sequence[DownwardFile], *, default_mode: int, fields: PodFields) -> dict[str, PayloadFile]:
    """The files that `items` name.

    Raises:
        UserError: A field or resource is not supported, or the item names neither.
    """
    payload = {}
    for item in items:
        if item.field_ref is not None:
            text = metadata_text(pod, item.field_ref.field_path)
        elif item.resource_field_ref is not None:
            text = resource_text(pod, item.resource_field_ref, container=None, fields=fields)
        else:
            raise UserError(f"downwardAPI item {item.path} has neither fieldRef nor resourceFieldRef")
        payload[item.path] = PayloadFile(text.encode(), default_mode if item.mode is None else item.mode)
    return payload
