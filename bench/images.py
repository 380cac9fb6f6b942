"""Pulling from a local registry: many small images, a large blob, images of files, signed ones, one for many pods."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench.harness import ROOT, Row, median, state_directory
from tests.support.cosign import Signer, Written, push
from tests.support.file_images import build, files
from tests.support.registry import docker_registry
from wasmlet.images.library import Library
from wasmlet.images.settings import Settings

SMALL_IMAGES = 100
SMALL_BAR_SECONDS = 3.0
PODS = 200
BLOB_BYTES = 100 << 20
BLOB_BAR_MEGABYTES = 300
MEMORY_BAR_BYTES = 20 << 20
LAG_BAR_SECONDS = 0.02
ROUNDS = 5
FILE_IMAGES = 10
FILES = 1000
FILE_BYTES = 10_000
PREAMBLE = b"\0asm\x01\0\0\0"


def measure() -> list[Row]:
    """All of them against one registry (Debian's docker-registry), on the loop that `wasmlet node` would take."""
    with state_directory() as state:
        (state / "registry").mkdir()
        with docker_registry(state / "registry", access_log=True) as registry:
            large, small = asyncio.run(_filled(state, registry.address))
            rows = [*_small(state, small), *_large(state, large), _shared(state, small[0], registry.log)]
            return [*rows, *_unpacked(state, registry.address), *_signed(state, registry.address, small)]


async def _filled(state: Path, address: str) -> tuple[str, list[str]]:
    """Push what is pulled later: the reference of the large image and those of the small ones."""
    library = Library(Settings(directory=state / "pushed"))
    module = state / "module.wasm"
    try:
        small = []
        for number in range(SMALL_IMAGES):
            module.write_bytes(_module(number.to_bytes(2) + os.urandom(10_000)))
            small.append(f"{address}/small/image{number}:v1")
            await library.push(module, small[-1])
        module.write_bytes(_module(os.urandom(BLOB_BYTES)))
        large = f"{address}/large/image:v1"
        await library.push(module, large)
        return large, small
    finally:
        await library.close()


def _small(state: Path, references: list[str]) -> list[Row]:
    found = [_pulled(state, references) for _ in range(ROUNDS)]
    seconds = median([each["seconds"] for each in found])
    return [
        Row(
            f"pulling {SMALL_IMAGES} small images from a local registry, median of {ROUNDS}",
            f"{seconds:.2f} s",
            f"≤ {SMALL_BAR_SECONDS:g} s",
            seconds <= SMALL_BAR_SECONDS,
        ),
        _lag("event-loop lag meanwhile", found),
    ]


def _large(state: Path, reference: str) -> list[Row]:
    """In turn with curl and sha256sum, since the machine is not always as fast."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(_pulled(state, [reference]))
        theirs.append(_curl_seconds(reference, state / "curl"))
    megabytes = BLOB_BYTES / 1e6
    speed = median([megabytes / each["seconds"] for each in ours])
    curl = median([megabytes / each for each in theirs])
    ratio = median([other / each["seconds"] for each, other in zip(ours, theirs, strict=True)])
    used = median([each["cpu_seconds"] for each in ours])
    more = max(each["more_bytes"] for each in ours)
    return [
        Row(
            f"pulling one image of {megabytes:.0f} MB over plain HTTP with its digest, median of {ROUNDS}",
            f"{speed:.0f} MB/s, {used:.2f} s of CPU",
            f"≥ {BLOB_BAR_MEGABYTES} MB/s",
            speed >= BLOB_BAR_MEGABYTES,
        ),
        Row("against `curl | tee file | sha256sum` in turn with it", f"{ratio:.2f} × (of {curl:.0f} MB/s)", ""),
        Row(
            "memory that it takes more, at most",
            f"{more / 1e6:.1f} MB",
            f"≤ {MEMORY_BAR_BYTES >> 20} MB",
            more <= MEMORY_BAR_BYTES,
        ),
        _lag("event-loop lag meanwhile", ours),
    ]


def _shared(state: Path, reference: str, log: Path) -> Row:
    before = log.stat().st_size
    _pulled(state, [reference], copies=PODS)
    with log.open("rb") as stream:
        stream.seek(before)
        lines = [line for line in stream if b'"GET /v2/' in line]
    blobs = sum(b"/blobs/" in line for line in lines)
    manifests = sum(b"/manifests/" in line for line in lines)
    return Row(
        f"{PODS} pods that want one image: manifests and blobs fetched (an image has two)",
        f"{manifests} and {blobs}",
        "1 and 2",
        (manifests, blobs) == (1, 2),
    )


def _unpacked(state: Path, address: str) -> list[Row]:
    """Images of files at once: each is pulled, unpacked by a helper and laid as a container's root."""
    references = []
    for number in range(FILE_IMAGES):
        contents = {f"data/{each % 50}/{each}": os.urandom(FILE_BYTES) for each in range(FILES)}
        built = build(files({"app.wasm": PREAMBLE, **contents}), Entrypoint=["/app.wasm"])
        push(address, f"files/image{number}", Written(built.manifest, tag="v1", blobs=list(built.blobs.values())))
        references.append(f"{address}/files/image{number}:v1")
    found = [_pulled(state, references) for _ in range(ROUNDS)]
    seconds = median([each["seconds"] for each in found])
    what = f"{FILE_IMAGES} images of {FILES} files ({FILES * FILE_BYTES / 1e6:.0f} MB) at once"
    row = Row(f"{what}: pulled, unpacked, laid as roots; median of {ROUNDS}", f"{seconds:.2f} s", "")
    return [row, _lag("event-loop lag meanwhile", found)]


def _signed(state: Path, address: str, references: list[str]) -> list[Row]:
    """The small images once more, each with a signature that a policy wants."""
    signer, policy = Signer(), state / "policy.yaml"
    (state / "team.pub").write_text(signer.pem)
    policy.write_text(f"version: 1\ndefault: never\nrules: [{{images: '{address}/**', allow: {{keys: [team.pub]}}}}]\n")
    for each in references:
        repository = each.removeprefix(f"{address}/").removesuffix(":v1")
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        request = urllib.request.Request(f"http://{address}/v2/{repository}/manifests/v1", headers=accept)
        with urllib.request.urlopen(request) as answer:
            push(address, repository, signer.tagged(answer.headers["Docker-Content-Digest"]))
    found = [_pulled(state, references, policy=policy) for _ in range(ROUNDS)]
    seconds = median([each["seconds"] for each in found])
    row = Row(f"the {len(references)} small images with a signature each, median of {ROUNDS}", f"{seconds:.2f} s", "")
    return [row, _lag("event-loop lag meanwhile", found)]


def _pulled(state: Path, references: list[str], *, copies: int = 1, policy: Path | None = None) -> dict[str, Any]:
    """What `bench.pulls` says of pulling into an empty store."""
    store = state / "store"
    for each in (store, state / "roots"):
        shutil.rmtree(each, ignore_errors=True)
    environment = {**os.environ, **({"POLICY": str(policy)} if policy else {})}
    command = [sys.executable, "-m", "bench.pulls", "uvloop", str(store), str(copies), *references]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _curl_seconds(reference: str, file: Path) -> float:
    """What `curl | tee file | sha256sum` take for the image's layer."""
    file.unlink(missing_ok=True)
    address, _, name = reference.partition("/")
    repository, _, tag = name.partition(":")
    request = urllib.request.Request(
        f"http://{address}/v2/{repository}/manifests/{tag}",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        digest = json.load(answer)["layers"][0]["digest"]
    url = f"http://{address}/v2/{repository}/blobs/{digest}"
    began = time.perf_counter()
    curl = subprocess.Popen(["curl", "--silent", url], stdout=subprocess.PIPE)
    tee = subprocess.Popen(["tee", str(file)], stdin=curl.stdout, stdout=subprocess.PIPE)
    subprocess.run(["sha256sum"], stdin=tee.stdout, check=True, stdout=subprocess.DEVNULL)
    for each in (curl, tee):
        each.wait()
    return time.perf_counter() - began


def _lag(what: str, found: list[dict[str, Any]]) -> Row:
    p99 = median([each["lag_p99"] for each in found])
    return Row(what, f"p99 {p99 * 1000:.1f} ms", f"p99 ≤ {LAG_BAR_SECONDS * 1000:g} ms", p99 <= LAG_BAR_SECONDS)


def _module(payload: bytes) -> bytes:
    """A core module that holds bytes in a custom section."""
    payload = b"\x01x" + payload
    size, length = len(payload), b""
    while size:
        length += bytes([size & 127 | (128 if size >> 7 else 0)])
        size >>= 7
    return PREAMBLE + b"\0" + length + payload
