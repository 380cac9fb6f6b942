"""The distribution API against Debian's docker-registry: plain, and with TLS and a login."""

import asyncio
import dataclasses
import io
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.registry import PASSWORD, USERNAME, RunningRegistry
from tests.unit.images.fake_registry import FakeRegistry, on, partly, status, times
from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.images.credentials import Credential
from wasmlet.images.layouts import WASM_LAYER
from wasmlet.images.library import Library
from wasmlet.images.manifest import MAX_MANIFEST_BYTES, OCI_MANIFEST, Descriptor, digest_of
from wasmlet.images.reference import Reference, parse_remote
from wasmlet.images.registry import Registry
from wasmlet.images.settings import Settings


class Memory:
    """A sink."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, chunks: Sequence[bytes]) -> None:
        self.content += b"".join(chunks)

    def restart(self) -> None:
        self.content.clear()


def blob_of(content: bytes) -> Descriptor:
    return Descriptor(media_type=WASM_LAYER, digest=digest_of(content), size=len(content))


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[Registry]:
    registry = Registry(dataclasses.replace(settings, idle_timeout_seconds=0.5))
    yield registry
    await registry.close()


@pytest.fixture
def reference(fake: FakeRegistry) -> Reference:
    return parse_remote(fake.add_image())


async def test_what_is_pushed_comes_back(registry: Registry, plain_registry: RunningRegistry) -> None:
    reference = parse_remote(f"{plain_registry.address}/push/blob:v1")
    content = b"\0asm" * 500_000
    blob = blob_of(content)
    assert not await registry.has_blob(reference, blob.digest)
    await registry.push_blob(reference, blob, io.BytesIO(content))
    await registry.push_blob(reference, blob, io.BytesIO(b"is there, so this is not even read"))
    config = blob_of(b"{}")
    await registry.push_blob(reference, config, io.BytesIO(b"{}"))
    line = {"mediaType": WASM_LAYER, "digest": blob.digest, "size": blob.size}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": line | {"digest": config.digest, "size": 2},
        "layers": [line],
    }
    manifest = json.dumps(document).encode()
    digest = await registry.push_manifest(reference, manifest, OCI_MANIFEST)
    assert digest == await registry.resolve(reference) == digest_of(manifest)
    fetched = await registry.fetch_manifest(dataclasses.replace(reference, digest=digest))
    assert fetched.content == manifest
    sink, counts = Memory(), list[int]()
    await registry.fetch_blob(reference, blob, sink, received=counts.append)
    assert sink.content == content
    assert counts[-1] == len(content)
    assert counts == sorted(counts)


async def test_what_is_not_there_is_not_found(registry: Registry, plain_registry: RunningRegistry) -> None:
    reference = parse_remote(f"{plain_registry.address}/no/such:image")
    with pytest.raises(NotFoundError, match=f"image {reference} is not in {plain_registry.address}"):
        await registry.fetch_manifest(reference)
    with pytest.raises(NotFoundError):
        await registry.resolve(reference)
    with pytest.raises(NotFoundError, match="blob sha256:"):
        await registry.fetch_blob(reference, blob_of(b"nowhere"), Memory())


async def test_tls_and_login(
    settings: Settings, guarded_registry: RunningRegistry, module_file: Path, tmp_path: Path
) -> None:
    name = f"{guarded_registry.address}/team/hello:v1"
    login = Credential(guarded_registry.address, USERNAME, PASSWORD)
    assert guarded_registry.ca_file is not None
    library = Library(dataclasses.replace(settings, ca_files=(guarded_registry.ca_file,)))
    await library.push(module_file, name, credentials=[login])
    image = await library.pull(name, credentials=[login])
    assert image.module.read_bytes() == module_file.read_bytes()
    with pytest.raises(UserError, match="wants a login"):
        await library.pull(name)
    with pytest.raises(UserError, match="refused the credentials of alice"):
        await library.pull(name, credentials=[dataclasses.replace(login, password="wrong")])
    await library.close()


async def test_a_certificate_of_nobody_is_not_trusted_even_on_loopback(
    registry: Registry, guarded_registry: RunningRegistry
) -> None:
    with pytest.raises(UserError, match=r"certificate of .* is not trusted.*ca-files"):
        await registry.fetch_manifest(parse_remote(f"{guarded_registry.address}/a:b"))


async def test_an_insecure_registry_s_certificate_is_not_checked(
    settings: Settings, guarded_registry: RunningRegistry
) -> None:
    registry = Registry(dataclasses.replace(settings, insecure_registries=frozenset({guarded_registry.address})))
    with pytest.raises(UserError, match="wants a login"):
        await registry.fetch_manifest(parse_remote(f"{guarded_registry.address}/a:b"))
    await registry.close()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (401, UserError, "wants a login"),
        (403, UserError, "denies anonymous"),
        (404, NotFoundError, "is not in"),
        (500, RetryableError, "status 500"),
        (418, UserError, "status 418"),
    ],
)
async def test_every_status_has_its_error(
    registry: Registry, fake: FakeRegistry, reference: Reference, code: int, kind: type[Exception], words: str
) -> None:
    fake.behaviours.append(on("/manifests/", status(code)))
    with pytest.raises(kind, match=words) as caught:
        await registry.fetch_manifest(reference)
    assert str(reference) in str(caught.value)


async def test_a_registry_that_recovers_is_asked_again(
    registry: Registry, fake: FakeRegistry, reference: Reference
) -> None:
    fake.behaviours.append(times(2, on("/manifests/", status(503))))
    await registry.fetch_manifest(reference)
    fake.behaviours.append(times(1, on("/manifests/", status(429, Retry_After="0"))))
    await registry.fetch_manifest(reference)
    assert fake.count("GET", "/manifests/") == 5


async def test_a_long_retry_after_is_left_to_the_caller(
    registry: Registry, fake: FakeRegistry, reference: Reference
) -> None:
    fake.behaviours.append(on("/manifests/", status(429, Retry_After="600")))
    with pytest.raises(RetryableError, match="limits the rate") as caught:
        await registry.fetch_manifest(reference)
    assert caught.value.retry_after_seconds == 600
    assert fake.count("GET", "/manifests/") == 1


async def test_a_head_without_a_digest_is_followed_by_a_get(
    registry: Registry, fake: FakeRegistry, reference: Reference
) -> None:
    fake.behaviours.append(on("/manifests/", status(200), "HEAD"))
    assert await registry.resolve(reference) == digest_of(fake.manifests["latest"][0])


async def test_another_manifest_than_asked_for_is_refused(registry: Registry, fake: FakeRegistry) -> None:
    fake.add_image()
    wanted = "sha256:" + "0" * 64
    fake.manifests[wanted] = fake.manifests["latest"]
    with pytest.raises(RetryableError, match=f"instead of {wanted}"):
        await registry.fetch_manifest(parse_remote(f"{fake.address}/test/hello@{wanted}"))


async def test_a_manifest_has_a_limit(registry: Registry, fake: FakeRegistry, reference: Reference) -> None:
    fake.manifests["latest"] = (b" " * (MAX_MANIFEST_BYTES + 1), OCI_MANIFEST)
    with pytest.raises(UserError, match="longer than 4194304 bytes"):
        await registry.fetch_manifest(reference)


async def test_a_cut_blob_is_fetched_again(registry: Registry, fake: FakeRegistry, reference: Reference) -> None:
    content = bytes(range(256)) * 8000
    blob = blob_of(content)
    fake.add_blob(content)
    fake.behaviours.append(times(1, on("/blobs/", partly(content[:1_500_000], length=len(content), then="cut"))))
    fake.behaviours.append(times(1, on("/blobs/", partly(content[:10], length=10, then="end"))))
    sink = Memory()
    await registry.fetch_blob(reference, blob, sink)
    assert sink.content == content
    assert fake.count("GET", "/blobs/") == 3


async def test_a_blob_that_stays_cut_names_itself(registry: Registry, fake: FakeRegistry, reference: Reference) -> None:
    blob = blob_of(b"x" * 100)
    fake.behaviours.append(on("/blobs/", partly(b"x" * 10, length=10, then="end")))
    with pytest.raises(RetryableError, match=f"blob {blob.digest} of image {reference} ended after 10 of 100 bytes"):
        await registry.fetch_blob(reference, blob, Memory())


async def test_a_blob_that_is_too_long_is_left(registry: Registry, fake: FakeRegistry, reference: Reference) -> None:
    fake.behaviours.append(on("/blobs/", partly(b"x" * 200, length=200, then="end")))
    with pytest.raises(RetryableError, match="is longer than its 100 bytes"):
        await registry.fetch_blob(reference, blob_of(b"x" * 100), Memory())


async def test_a_blob_that_drips_is_left(registry: Registry, fake: FakeRegistry, reference: Reference) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.02)

    fake.behaviours.append(on("/blobs/", drip))
    with pytest.raises(RetryableError, match=r"comes at less than 16384 bytes in 0\.5 s"):
        await registry.fetch_blob(reference, blob_of(b"x" * 5000), Memory())


async def test_a_blob_that_hangs_is_left(registry: Registry, fake: FakeRegistry, reference: Reference) -> None:
    fake.behaviours.append(on("/blobs/", partly(b"x" * 10, length=100, then="hang")))
    with pytest.raises(RetryableError, match=f"{fake.address} made no progress"):
        await registry.fetch_blob(reference, blob_of(b"x" * 100), Memory())
    await fake.gone.wait()
