"""A policy that lets signed images run and no others: `python demos/signed-image/run.py WASMLET`.

Two images are pushed to a registry in this process, and one is signed as `cosign sign --key` does it: here by openssl,
so that the demo needs no cosign. Addresses, digests and directories are left out of what it prints.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import registry  # noqa: E402

MODULE = HERE.parent / "hello-world-c" / "hello-world-wasi-c.wasm"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def main(wasmlet: str) -> int:
    """Push, sign, and run both; 1 when the one did not run, or the other did."""
    with tempfile.TemporaryDirectory() as name, registry.running() as address:
        directory = Path(name)
        policy = directory / "policy.yaml"
        shutil.copy(HERE / "policy.yaml", policy)
        make_keys(directory)
        hidden = {address: "REGISTRY", f"{directory}/": "", f"{MODULE.parent}/": ""}
        signed, unsigned = f"{address}/team/hello:signed", f"{address}/team/hello:unsigned"
        by_the_team = ("--annotation", "org.example.by=the-team")  # or both would be one image, by their digest
        digest = show(hidden, wasmlet, "push", *by_the_team, str(MODULE), signed)[1].strip()
        show(hidden, wasmlet, "push", str(MODULE), unsigned)
        print(f"$ {hide(hidden, f'cosign sign --key team.key {address}/team/hello@{digest}')}")
        sign(directory / "team.key", address, "team/hello", digest)
        ran = show(hidden, wasmlet, "run", "--image-policy", str(policy), signed)[0]
        refused = show(hidden, wasmlet, "run", "--image-policy", str(policy), unsigned)[0]
        subprocess.run([wasmlet, "rmi", signed], stdout=subprocess.DEVNULL, check=False)
    return 0 if ran == 0 and refused == 125 else 1


def make_keys(directory: Path) -> None:
    """Make a key pair; `cosign generate-key-pair` makes such a pair, and keeps the private key encrypted."""
    key, public = directory / "team.key", directory / "team.pub"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, stderr=subprocess.DEVNULL)


def sign(key: Path, address: str, repository: str, digest: str) -> None:
    """Put a signature of the image at its `.sig` tag, as cosign's SIGNATURE_SPEC.md has it."""
    identity = {"docker-reference": f"{address}/{repository}"}
    image = {"docker-manifest-digest": digest}
    critical = {"identity": identity, "image": image, "type": "cosign container image signature"}
    payload = json.dumps({"critical": critical, "optional": None}).encode()
    command = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    signature = subprocess.run(command, input=payload, stdout=subprocess.PIPE, check=True).stdout
    annotations = {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": put_blob(address, repository, b"{}", "application/vnd.oci.image.config.v1+json"),
        "layers": [{**put_blob(address, repository, payload, SIMPLE_SIGNING), "annotations": annotations}],
    }
    put(address, f"/v2/{repository}/manifests/{digest.replace(':', '-')}.sig", json.dumps(document).encode(), MANIFEST)


def put_blob(address: str, repository: str, content: bytes, media_type: str) -> dict[str, object]:
    """Upload a blob; give its descriptor."""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    put(address, f"/v2/{repository}/blobs/uploads/one?digest={digest}", content, "application/octet-stream")
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def put(address: str, path: str, body: bytes, content_type: str) -> None:
    """Send one PUT, which must succeed."""
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("PUT", path, body, {"Content-Type": content_type})
    if (status := connection.getresponse().status) != 201:
        raise SystemExit(f"{path}: status {status}")
    connection.close()


def show(hidden: dict[str, str], wasmlet: str, *arguments: str) -> tuple[int, str]:
    """Run a command of wasmlet and print both as a terminal shows them; give its exit status and output."""
    print(f"$ wasmlet {hide(hidden, ' '.join(arguments))}", flush=True)
    command = [wasmlet, *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(hide(hidden, ended.stdout), end="")
    if ended.returncode:
        print(f"exit status {ended.returncode}")
    return ended.returncode, ended.stdout


def hide(hidden: dict[str, str], text: str) -> str:
    """Leave out what is another one each time."""
    for found, shown in hidden.items():
        text = text.replace(found, shown)
    return re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
