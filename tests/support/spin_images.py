"""Spin applications as `spin registry push` lays them out (spin, crates/oci/src/client.rs)."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.cosign import Written
from wasmlet.images.layouts import KRUSTLET_LAYER
from wasmlet.images.manifest import OCI_MANIFEST, digest_of
from wasmlet.images.spin import APPLICATION

CONFIG: Final = "application/vnd.oci.image.config.v1+json"
DATA: Final = "application/vnd.wasm.content.layer.v1+data"
INLINE_BYTES: Final = 128
"""Files up to this size are written into the application itself, and have no layer."""


@dataclass(frozen=True)
class Part:
    """A component: its routes as triggers have them, its module, its files by path."""

    name: str
    routes: Sequence[Any]
    module: bytes
    files: Mapping[str, bytes] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


def application(*parts: Part, variables: Mapping[str, dict[str, Any]] | None = None, tag: str = "1") -> Written:
    """The image: components, then their larger files, the locked application last; each blob once."""
    layers: dict[str, tuple[str, bytes]] = {}
    components = []
    for part in parts:
        layers[digest_of(part.module)] = (KRUSTLET_LAYER, part.module)
        files = []
        for path, content in part.files.items():
            reference: dict[str, Any] = {"digest": digest_of(content)}
            if len(content) <= INLINE_BYTES:
                reference["inline"] = base64.b64encode(content).decode()
            else:
                layers[digest_of(content)] = (DATA, content)
            files.append({"content": reference, "path": path})
        components.append(
            {
                "id": part.name,
                "metadata": {"allowed_outbound_hosts": []},
                "source": {"content_type": "application/wasm", "content": {"digest": digest_of(part.module)}},
                "env": dict(part.env),
                "files": files,
                "config": dict(part.variables),
            }
        )
    locked = {
        "spin_lock_version": 1,
        "metadata": {"name": "shop", "version": "0.1.0"},
        "variables": dict(variables or {}),
        "triggers": [
            {
                "id": f"trigger-{part.name}-{number}",
                "trigger_type": "http",
                "trigger_config": {"component": part.name, "executor": None, "route": route},
            }
            for part in parts
            for number, route in enumerate(part.routes)
        ],
        "components": components,
    }
    encoded = json.dumps(locked).encode()
    layers[digest_of(encoded)] = (APPLICATION, encoded)
    labels = {"com.fermyon.spin.lockedAppDigest": digest_of(encoded)}
    config = json.dumps({"architecture": "wasm", "os": "Wasip1", "config": {"Labels": labels}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _described(CONFIG, config),
        "layers": [_described(kind, blob) for kind, blob in layers.values()],
    }
    return Written(json.dumps(manifest).encode(), tag=tag, blobs=[config, *(blob for _, blob in layers.values())])


def _described(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(blob), "size": len(blob)}
