"""Writes recorded.json: what cosign's own code puts into a registry when it signs. `python record.py PEER`.

PEER is built from peer.go.txt (minutes, 1,300 packages):

    mkdir peer && cp peer.go.txt peer/main.go && cd peer && go mod init peer
    go get github.com/sigstore/cosign/v3@v3.1.3 && go mod tidy && go build .

`python record.py PEER` needs Debian's docker-registry, and openssl for the keys that cosign imports.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[3]))

from tests.support.registry import RunningRegistry, docker_registry  # noqa: E402
from wasmlet.images.library import Library  # noqa: E402
from wasmlet.images.settings import Settings  # noqa: E402

IMPORTED = {
    "P-384": ["genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "RSA": ["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"],
    "Ed25519": ["genpkey", "-algorithm", "ed25519"],
}


def main(peer: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        keys = make_keys(peer, directory)
        recorded = {kind: record(peer, directory, directory / kind) for kind in keys}
    (HERE / "recorded.json").write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


def make_keys(peer: str, directory: Path) -> list[str]:
    run(peer, "keys", directory / "P-256")
    for kind, arguments in IMPORTED.items():
        subprocess.run(["openssl", *arguments, "-out", directory / f"{kind}.pem"], check=True)
        run(peer, "import", directory / f"{kind}.pem", directory / kind)
    return ["P-256", *IMPORTED]


def record(peer: str, directory: Path, key: Path) -> dict[str, Any]:
    """What the key's signatures are, for each way of signing; the image's manifest and digest."""
    found: dict[str, Any] = {"key": key.with_suffix(".pub").read_text()}
    (directory / "statement.json").write_text('{"faults": "many"}')
    for way in ("legacy", "bundle", "experimental", "attest"):
        root = directory / f"{key.name}-{way}"
        root.mkdir()
        with docker_registry(root) as registry:
            digest = asyncio.run(push(registry, directory))
            image = f"{registry.address}/test/hello@{digest}"
            if way == "attest":
                run(peer, "attest", f"{key}.key", "custom", directory / "statement.json", image)
            else:
                run(peer, "sign", f"{key}.key", way, image)
            found[way] = {"digest": digest, **contents(registry, root)}
    return found


async def push(registry: RunningRegistry, directory: Path) -> str:
    module = directory / "hello.wasm"
    module.write_bytes(b"\0asm\x01\0\0\0")
    os.utime(module, (0, 0))
    library = Library(Settings(directory=directory / "images"))
    try:
        return await library.push(module, f"{registry.address}/test/hello:v1")
    finally:
        await library.close()


def contents(registry: RunningRegistry, root: Path) -> dict[str, Any]:
    """Every blob in base64, and which are manifests: under tags and digests."""
    repository = root / "data" / "docker" / "registry" / "v2" / "repositories" / "test" / "hello" / "_manifests"
    tags = {each.name: (each / "current" / "link").read_text() for each in (repository / "tags").iterdir()}
    revisions = [f"sha256:{each.name}" for each in (repository / "revisions" / "sha256").iterdir()]
    blobs = {f"sha256:{each.parent.name}": each.read_bytes() for each in registry.blobs.glob("sha256/*/*/data")}
    return {
        "tags": tags,
        "manifests": sorted(revisions),
        "blobs": {digest: base64.b64encode(content).decode() for digest, content in blobs.items()},
    }


def run(*command: object) -> None:
    subprocess.run([str(each) for each in command], check=True, env={**os.environ, "COSIGN_PASSWORD": ""})


if __name__ == "__main__":
    main(sys.argv[1])
