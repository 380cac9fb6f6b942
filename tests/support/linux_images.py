"""Images that no wasmlet can run, pushed to a real registry by its HTTP API."""

import hashlib
import json
import urllib.request
from typing import Any

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def push_linux_image(address: str, repository: str, tag: str = "1") -> str:
    """A Linux image as a registry has it, with one layer that is no archive; its reference."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _blob(address, repository, CONFIG_TYPE, b'{"os":"linux","architecture":"amd64"}'),
        "layers": [_blob(address, repository, LAYER_TYPE, b"a file system")],
    }
    url = f"http://{address}/v2/{repository}/manifests/{tag}"
    _request("PUT", url, json.dumps(manifest).encode(), MANIFEST_TYPE)
    return f"{address}/{repository}:{tag}"


def _blob(address: str, repository: str, media_type: str, content: bytes) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    location = _request("POST", f"http://{address}/v2/{repository}/blobs/uploads/", b"")
    _request("PUT", f"{location}{'&' if '?' in location else '?'}digest={digest}", content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _request(method: str, url: str, content: bytes, media_type: str = "application/octet-stream") -> str:
    """Send it; the Location that comes back."""
    request = urllib.request.Request(url, data=content, method=method, headers={"Content-Type": media_type})
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(response.headers.get("Location", ""))
