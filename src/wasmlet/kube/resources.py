"""What the API server calls a kind: its path, and the struct that holds one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from urllib.parse import quote

import msgspec

from wasmlet.base.errors import WasmletError
from wasmlet.kube.types import ConfigMap, Pod, Secret

__all__ = ["CONFIG_MAPS", "PODS", "SECRETS", "Resource"]

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """One kind of object.

    Attributes:
        type: The struct of one object; it has `metadata: ObjectMeta`.
        group_version: `v1`, or `group/version` as in `coordination.k8s.io/v1`.
        plural: Its word in paths: `pods`.
        is_namespaced: Whether its objects live in namespaces.
    """

    type: type[T]
    group_version: str
    plural: str
    is_namespaced: bool = True

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of an object, of a subresource (`status`), or of all of a namespace or the cluster.

        Raises:
            WasmletError: A name without its namespace, a namespace for what has none, or a name that is no path
                segment.
        """
        is_wrong = bool(name) and not namespace if self.is_namespaced else bool(namespace)
        if is_wrong:
            raise WasmletError(f"{self.plural} {name!r} cannot be in namespace {namespace!r}")
        root = "/api" if "/" not in self.group_version else "/apis"
        parts = ["namespaces", namespace] if namespace else []
        parts += [each for each in (self.plural, name, subresource) if each]
        # Names are checked by the API server; what must not happen is that one becomes another path.
        if any(each in (".", "..") or "/" in each for each in parts):
            raise WasmletError(f"{name!r} in namespace {namespace!r} is no name of {self.plural}")
        return "/".join([root, self.group_version, *(quote(each, safe="") for each in parts)])

    def collection(self, namespace: str = "") -> str:
        """The path of all objects of `namespace`, of the cluster when it is empty."""
        return self.path(namespace=namespace)


PODS: Final = Resource(Pod, "v1", "pods")
CONFIG_MAPS: Final = Resource(ConfigMap, "v1", "configmaps")
SECRETS: Final = Resource(Secret, "v1", "secrets")
