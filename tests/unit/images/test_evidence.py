"""Signatures in a registry: both layouts, what cosign itself wrote, bad ones and many."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.cosign import Signer, Written, layer, payload_of, push, referrer, referrers, tagged
from tests.support.registry import RunningRegistry
from tests.unit.images.fake_registry import FakeRegistry, on, status
from tests.unit.images.trusting import REASON, Node, digest_at, put, with_referrers
from wasmlet.base.errors import RetryableError
from wasmlet.images.evidence import MAX_BUNDLE_BYTES, MAX_LAYERS, MAX_PAYLOAD_BYTES, MAX_REFERRERS
from wasmlet.images.manifest import OCI_INDEX, digest_of

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "cosign" / "recorded.json").read_text())


@pytest.mark.parametrize("layout", ["tag", "referrers", "fallback"])
async def test_every_layout_of_signatures(node: Node, fake: FakeRegistry, signer: Signer, layout: str) -> None:
    name = fake.add_image()
    digest = digest_at(fake)
    if layout == "tag":
        put(fake, signer.tagged(digest))
    else:
        bundle = referrer(digest, signer.bundle(digest))
        if layout == "referrers":
            with_referrers(fake, digest, bundle)
        else:
            put(fake, bundle, referrers(digest, bundle))
    node.trusts(Signer(), signer)
    assert (await node.use(name)).image_id.endswith(f"@{digest}")
    node.trusts(Signer())
    await node.refuses(name, "it has 1 signature that does not count: 1 by another key")


async def test_a_signature_of_the_manifest_itself(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image()
    with_referrers(fake, digest_at(fake), referrer(digest_at(fake), signer.message_bundle(fake.manifests["latest"][0])))
    node.trusts(signer)
    await node.use(name)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA", "Ed25519"])
@pytest.mark.parametrize("way", ["legacy", "bundle", "experimental", "attest"])
async def test_what_cosign_wrote(node: Node, fake: FakeRegistry, kind: str, way: str) -> None:
    recorded = RECORDED[kind][way]
    contents = {digest: base64.b64decode(blob) for digest, blob in recorded["blobs"].items()}
    fake.blobs.update(contents)
    for digest in recorded["manifests"]:
        fake.manifests[digest] = (contents[digest], json.loads(contents[digest])["mediaType"])
    for tag, digest in recorded["tags"].items():
        fake.manifests[tag] = (contents[digest], json.loads(contents[digest])["mediaType"])
    name = f"{fake.address}/test/hello:v1"
    node.allow({"keys": [RECORDED[kind]["key"]]})
    if way == "attest":
        await node.refuses(name, "1 of another kind")
    else:
        assert (await node.use(name)).image_id.endswith(recorded["digest"])
    node.allow({"keys": [RECORDED["RSA" if kind == "P-256" else "P-256"]["key"]]})
    await node.refuses(name, "by another key")


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA", "Ed25519"])
@pytest.mark.parametrize("way", ["legacy", "bundle", "experimental", "attest"])
async def test_what_cosign_wrote_in_real_registries(
    node: Node, plain_registry: RunningRegistry, referrers_registry: str, kind: str, way: str
) -> None:
    recorded = RECORDED[kind][way]
    contents = {digest: base64.b64decode(blob) for digest, blob in recorded["blobs"].items()}
    for address in (plain_registry.address, referrers_registry):
        repository = f"recorded/{kind.lower()}-{way}"
        has_api = address == referrers_registry
        for digest in sorted(recorded["manifests"], key=lambda each: b'"manifests":' in contents[each]):
            content = contents[digest]
            if has_api and b'"manifests":' in content:
                continue  # the list at the tag, which the API makes
            named = [tag for tag, tagged in recorded["tags"].items() if tagged == digest] or [""]
            blobs = [blob for name, blob in contents.items() if name not in recorded["manifests"]]
            push(address, repository, Written(content, json.loads(content)["mediaType"], named[0], blobs))
        name = f"{address}/{repository}:v1"
        node.allow({"keys": [RECORDED[kind]["key"]]})
        if way == "attest":
            await node.refuses(name, "1 of another kind" if not has_api else "it is not signed")
        else:
            assert (await node.use(name)).image_id.endswith(recorded["digest"])


async def test_an_index_or_the_manifest_chosen_from_it(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    fake.add_image("inner")
    inner = digest_at(fake, "inner")
    entry = {"mediaType": fake.manifests["inner"][1], "digest": inner, "size": len(fake.manifests["inner"][0]),
             "platform": {"os": "wasip1", "architecture": "wasm"}}  # fmt: skip
    for number, signed in enumerate(("outer", "inner")):
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry], "annotations": {"n": str(number)}}
        outer = fake.add_manifest(signed, index, OCI_INDEX)
        put(fake, signer.tagged(outer if signed == "outer" else inner))
        name = f"{fake.address}/test/hello:{signed}"
        if signed == "inner":
            fake.manifests["v2"] = fake.manifests["inner"]
            name = f"{fake.address}/test/hello:v2"
        node.trusts(signer)
        await node.use(name)
        await node.use(name)  # from the store
        node.trusts(Signer())
        await node.refuses(name, "by another key")


async def test_the_payload_of_another_repository_counts_as_for_cosign(
    node: Node, fake: FakeRegistry, signer: Signer
) -> None:
    name = fake.add_image()
    put(fake, signer.tagged(digest_at(fake), reference="other.example/whatever"))
    node.trusts(signer)
    await node.use(name)


def bad_layers(signer: Signer, digest: str) -> list[tuple[bytes, dict[str, Any]]]:
    good = payload_of(digest)
    other, broken, large = payload_of(f"sha256:{'b' * 64}"), b"{", b" " * (MAX_PAYLOAD_BYTES + 1)
    return [
        (good, layer(good, "?")),
        (good, layer(good, "")),
        (good, layer(good, base64.b64encode(b"garbage").decode())),
        (good, layer(good, "A" * 100_000)),
        (good, Signer().layer(good)),
        (other, signer.layer(other)),
        (broken, signer.layer(broken)),
        (large, signer.layer(large)),
        (good, {**signer.layer(good), "mediaType": "text/plain"}),
    ]


async def test_bad_signatures_are_told_apart_and_keep_no_good_one_out(
    node: Node, fake: FakeRegistry, signer: Signer
) -> None:
    name = fake.add_image()
    digest = digest_at(fake)
    node.trusts(signer)
    put(fake, tagged(digest, *bad_layers(signer, digest)))
    error = await node.refuses(name, "it has 8 signatures that do not count")
    for fault in ("3 by another key", "1 that is not base64", "1 that is too long", "1 for another digest",
                  "1 that cannot be read", "1 without its payload", "left out: sha256:"):  # fmt: skip
        assert fault in error.message
    put(fake, signer.tagged(digest, *bad_layers(signer, digest)))
    await node.use(name)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"{", "1 that cannot be read"),
        (b"\xff" * 100, "1 that cannot be read"),
        (b" " * (MAX_BUNDLE_BYTES + 1), "left out: sha256:"),
    ],
    ids=["json", "text", "length"],
)
async def test_bad_bundles(node: Node, fake: FakeRegistry, signer: Signer, content: bytes, why: str) -> None:
    name = fake.add_image()
    digest = digest_at(fake)
    node.trusts(signer)
    bad = referrer(digest, content)
    with_referrers(fake, digest, bad)
    await node.refuses(name, why)
    fake.behaviours.clear()
    with_referrers(fake, digest, bad, referrer(digest, signer.bundle(digest)))
    await node.use(name)


async def test_thousands_of_signatures_are_soon_through(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image()
    digest = digest_at(fake)
    node.trusts(signer)
    foreign = Signer()
    many = [(payload_of(digest, reference=str(number)), "") for number in range(MAX_LAYERS)]
    layers = [(payload, foreign.layer(payload)) for payload, _ in many]
    put(fake, signer.tagged(digest, *layers[:-1]))
    async with asyncio.timeout(20):
        await node.use(name)  # the last of those that are looked at
        assert fake.count("GET", "/blobs/") == 3  # its payload; the others were no key's by their digests already
        node.trusts(Signer())
        await node.refuses(name, f"it has {MAX_LAYERS} signatures that do not count: {MAX_LAYERS} by another key")
        put(fake, signer.tagged(digest, *layers))
        await node.refuses(name, "left out: 1 signatures of sha256-")


async def test_a_crowd_of_other_statements_hides_no_signature(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image()
    digest = digest_at(fake)
    node.trusts(signer)
    crowd = [referrer(digest, b"%d" % number, predicate=None) for number in range(MAX_REFERRERS)]
    reports = [referrer(digest, b"x%d" % number, predicate="https://example.com/faults") for number in range(9)]
    with_referrers(fake, digest, *reports, *crowd, referrer(digest, signer.bundle(digest)))
    await node.use(name)
    assert fake.count("GET", "/blobs/") == 3


async def test_pages_of_referrers_are_followed_to_the_same_place_only(
    node: Node, fake: FakeRegistry, signer: Signer
) -> None:
    name = fake.add_image()
    digest = digest_at(fake)
    bundle = referrer(digest, signer.bundle(digest))
    put(fake, bundle)
    links = ["</v2/test/hello/referrers/x?page=2>; rel=next", None]

    async def answer(request: web.Request) -> web.Response:
        index = referrers(digest, *([bundle] if "page=2" in request.path_qs else []))
        link = links[0] if "page=2" not in request.path_qs else links[1]
        return web.Response(body=index.manifest, content_type=OCI_INDEX, headers={"Link": link} if link else {})

    fake.behaviours.append(on("/referrers/", answer))
    node.trusts(signer)
    await node.use(name)
    links[0] = "<http://127.0.0.1:1/v2/test/hello/referrers/x?page=2>; rel=next"
    node.trusts(Signer())
    await node.refuses(name, "it is not signed")
    links[:] = ["</v2/test/hello/referrers/x>; rel=next", None]  # for ever
    await node.refuses(name, "referrers beyond the first 10 pages")


async def test_registries_that_do_not_answer(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image()
    node.allow("always")
    await node.use(name)
    node.trusts(signer)
    fake.behaviours.append(on(".sig", status(500)))
    with pytest.raises(RetryableError, match=r"its signatures could not be checked: .*status 500") as caught:
        await node.use(name)
    assert caught.value.reason == REASON
    fake.behaviours[:] = [on(".sig", status(403))]
    await node.refuses(name, "its signatures could not be checked")
    fake.behaviours[:] = [on("referrers", status(405))]  # without the API, and with nothing at its tag
    await node.refuses(name, "it is not signed")
    broken = b'{"schemaVersion": 2, "layers": 7}'
    fake.behaviours.clear()
    fake.manifests[f"{digest_at(fake).replace(':', '-')}.sig"] = (broken, "application/vnd.oci.image.manifest.v1+json")
    await node.refuses(name, "left out: sha256-")


async def test_a_payload_that_the_registry_changed(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image()
    written = signer.tagged(digest_at(fake))
    put(fake, written)
    fake.blobs[digest_of(written.blobs[1])] = b" " * len(written.blobs[1])
    node.trusts(signer)
    with pytest.raises(RetryableError, match="sent another content") as caught:
        await node.use(name)
    assert caught.value.reason == REASON
