"""Trust: images with signatures of both layouts, what cosign itself wrote, the store, bad and many signatures."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.cosign import Signer, Written, layer, payload_of, push, referrer, referrers, tagged
from tests.support.registry import RunningRegistry
from tests.support.sigstore import ISSUER, SUBJECT, Sigstore
from tests.unit.images.fake_registry import FakeRegistry, on, status
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images import keys, trust
from wasmlet.images.evidence import MAX_BUNDLE_BYTES, MAX_LAYERS, MAX_PAYLOAD_BYTES, MAX_REFERRERS
from wasmlet.images.image import Image
from wasmlet.images.library import Library
from wasmlet.images.manifest import OCI_INDEX, digest_of
from wasmlet.images.settings import Settings

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "cosign" / "recorded.json").read_text())
REASON = "SignatureValidationFailed"


class Node:
    """A node with a policy; every use of it is one of a new agent."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        self.file = directory / "policy.yaml"
        self.settings = dataclasses.replace(settings, policy_file=self.file)

    def allow(self, allowance: object, **more: object) -> None:
        self.file.write_text(json.dumps({"version": "1", "default": allowance, **more}))  # JSON is YAML

    def trusts(self, *signers: Signer, **more: object) -> None:
        self.allow({"keys": [signer.pem for signer in signers]}, **more)

    async def use(self, name: str, *, always: bool = False, also: Path | None = None) -> Image:
        library = Library(self.settings)
        try:
            image, _ = await library.ensure(name, pull_policy="Always" if always else "IfNotPresent", policy_file=also)
            return image
        finally:
            await library.close()

    async def refuses(self, name: str, why: str, **options: Any) -> UserError:
        with pytest.raises(UserError, match=re.escape(why)) as caught:
            await self.use(name, **options)
        assert caught.value.reason == REASON
        assert caught.value.message.startswith(
            f"image pull failed for {name} because the signature validation failed: "
        )
        return caught.value


@pytest.fixture
def node(settings: Settings, tmp_path: Path) -> Node:
    return Node(settings, tmp_path)


@pytest.fixture
def signer() -> Signer:
    return Signer()


def put(fake: FakeRegistry, *written: Written) -> None:
    for each in written:
        for blob in each.blobs:
            fake.add_blob(blob)
        for name in (each.tag, each.digest):
            fake.manifests[name] = (each.manifest, each.media_type)


def digest_at(fake: FakeRegistry, tag: str = "latest") -> str:
    return digest_of(fake.manifests[tag][0])


def with_referrers(fake: FakeRegistry, subject: str, *written: Written) -> None:
    """The referrers API, for one image."""
    put(fake, *written)
    index = referrers(subject, *written)

    async def answer(request: web.Request) -> web.Response:
        assert request.path.endswith(f"/referrers/{subject}")
        return web.Response(body=index.manifest, content_type=OCI_INDEX)

    fake.behaviours.append(on("/referrers/", answer))


async def test_without_a_policy_every_image_runs(library: Library, fake: FakeRegistry) -> None:
    await library.ensure(fake.add_image(), pull_policy="Always")
    assert not [path for _, path, _ in fake.seen if ".sig" in path or "referrers" in path]


async def test_an_unsigned_image_is_not_even_downloaded(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image()
    node.trusts(signer)
    error = await node.refuses(name, f"it is not signed, and rule default of the image policy {node.file} wants one")
    repository = name.removesuffix(":latest")
    assert error.hint == (
        f"sign it (cosign sign --key KEY {repository}@{digest_at(fake)}), or change that rule in {node.file}"
    )
    assert fake.count("GET", "/blobs/") == 0


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


async def test_an_identity_instead_of_a_key(node: Node, fake: FakeRegistry, signer: Signer, tmp_path: Path) -> None:
    sigstore = Sigstore()
    (tmp_path / "root.json").write_text(sigstore.trusted_root())
    name = fake.add_image()
    digest = digest_at(fake)
    with_referrers(
        fake, digest, referrer(digest, signer.bundle(digest)), referrer(digest, sigstore.sign_statement(digest))
    )
    me = {"issuer": ISSUER, "subject": SUBJECT}
    you = {"issuer": ISSUER, "subject": "you@example.com"}
    node.allow({"identities": [you]}, trustedRoot="root.json")
    error = await node.refuses(name, "1 that sigstore does not confirm for the policy's identities")
    assert "1 that sigstore cannot read" in error.message
    node.allow({"identities": [you, me]}, trustedRoot="root.json")
    await node.use(name)
    fake.seen.clear()
    await node.use(name)
    assert fake.seen == []
    node.allow({"identities": [you]}, trustedRoot="root.json")
    await node.refuses(name, "does not confirm")
    node.allow({"identities": [you], "keys": [signer.pem]}, trustedRoot="root.json")
    await node.use(name)


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


async def test_what_was_found_is_remembered_by_digest_and_key(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image()
    put(fake, signer.tagged(digest_at(fake)))
    node.trusts(signer)
    await node.use(name)
    fake.seen.clear()
    await node.use(name)
    assert fake.seen == []
    fake.manifests.clear()
    other = Signer()
    node.trusts(other)
    await node.refuses(name, "it is not signed")
    node.trusts(other, signer)
    await node.use(name)
    (record,) = (node.settings.directory / "trust").iterdir()
    record.write_text("{")  # by hand: it is found out again
    await node.refuses(name, "it is not signed")


async def test_a_policy_that_changes_counts_from_the_next_start(
    node: Node, fake: FakeRegistry, signer: Signer, tmp_path: Path
) -> None:
    name = fake.add_image()
    node.allow("always")
    library = Library(node.settings)
    try:
        await library.ensure(name, pull_policy="IfNotPresent")
        (tmp_path / "team.pub").write_text(signer.pem)
        node.allow({"keys": ["team.pub"]})
        with pytest.raises(UserError, match="it is not signed"):
            await library.ensure(name, pull_policy="IfNotPresent")
        put(fake, signer.tagged(digest_at(fake)))
        await library.ensure(name, pull_policy="IfNotPresent")
        (tmp_path / "team.pub").write_text(Signer().pem)
        with pytest.raises(UserError, match="by another key"):
            await library.ensure(name, pull_policy="IfNotPresent")
        node.file.write_text("version: 1")
        with pytest.raises(UserError, match="missing required field `default`") as caught:
            await library.ensure(name, pull_policy="IfNotPresent")
        assert caught.value.reason == REASON
        node.file.unlink()
        with pytest.raises(UserError, match="cannot be read"):
            await library.ensure(name, pull_policy="IfNotPresent")
    finally:
        await library.close()


async def test_the_tag_that_moves_between_check_and_use(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image(module=b"\0asm\x01\0\0\0\0\x03\x01xa")
    good = digest_at(fake)
    put(fake, signer.tagged(good))

    async def move(_: web.Request) -> None:
        fake.add_image(module=b"\0asm\x01\0\0\0\0\x03\x01xb")

    fake.behaviours.append(on(".sig", move))
    node.trusts(signer)
    image = await node.use(name)
    assert digest_at(fake) != good
    assert image.image_id.endswith(good)
    assert image.module.read_bytes().endswith(b"a")
    fake.behaviours.clear()
    await node.refuses(name, "it is not signed", always=True)  # Always asks what the tag is now


async def test_pins(node: Node, fake: FakeRegistry, tmp_path: Path) -> None:
    name = fake.add_image()
    node.allow({"digests": [digest_at(fake)]})
    await node.use(name)
    await node.use(name)
    node.allow({"digests": [f"sha256:{'a' * 64}"]})
    error = await node.refuses(name, "pins other digests than sha256:")
    assert error.hint is not None
    assert error.hint.endswith(f"list {digest_at(fake)} in {node.file}")
    node.allow("never")
    await node.refuses(name, "lets no such image run")


async def test_files_are_pinned_or_allowed(node: Node, module_file: Path, signer: Signer) -> None:
    name = f"file:{module_file}"
    digest = digest_of(module_file.read_bytes())
    node.trusts(signer)
    error = await node.refuses(name, "files on this machine carry none")
    assert error.hint == f"add its digest to that rule: {digest}"
    node.allow({"digests": [digest]})
    await node.use(name)
    node.allow("never", rules=[{"images": f"file:{module_file.parent}/**", "allow": "always"}])
    await node.use(name)


async def test_a_second_policy_has_to_agree(node: Node, fake: FakeRegistry, signer: Signer, tmp_path: Path) -> None:
    name = fake.add_image()
    put(fake, signer.tagged(digest_at(fake)))
    own = tmp_path / "own.yaml"
    own.write_text("version: 1\ndefault: never\n")
    node.trusts(signer)
    await node.refuses(name, f"rule default of the image policy {own} lets no such image run", also=own)
    own.write_text("version: 1\ndefault: always\n")
    await node.use(name, also=own)
    node.allow("never")
    await node.refuses(name, f"policy {node.file} lets", also=own)


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


async def test_keys_of_other_hashes_share_a_payload(node: Node, fake: FakeRegistry) -> None:
    name = fake.add_image()
    signers = [Signer(ec.generate_private_key(ec.SECP384R1())) for _ in range(3)]
    put(fake, signers[-1].tagged(digest_at(fake)))
    node.trusts(*signers)
    await node.use(name)
    assert fake.count("GET", "/blobs/") == 3  # payload, config, module


async def test_keys_are_tried_beside_the_event_loop(
    node: Node, fake: FakeRegistry, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = fake.add_image()
    digest = digest_at(fake)
    threads = set[int]()
    verify = keys._verify

    def watched(*arguments: Any, **more: Any) -> bool:
        threads.add(threading.get_ident())
        return verify(*arguments, **more)

    monkeypatch.setattr(keys, "_verify", watched)
    node.trusts(Signer(), signer)
    put(fake, signer.tagged(digest))
    await node.use(name)
    (node.settings.directory / "trust").rename(node.settings.directory / "elsewhere")
    del fake.manifests[signer.tagged(digest).tag]
    with_referrers(fake, digest, referrer(digest, signer.bundle(digest)))
    await node.use(name)
    assert threads
    assert threading.get_ident() not in threads


async def test_many_payloads_of_a_known_key_are_not_all_fetched(node: Node, fake: FakeRegistry, signer: Signer) -> None:
    name = fake.add_image()
    digest = digest_at(fake)
    node.trusts(signer)
    payloads = [payload_of(f"sha256:{number:064x}") for number in range(trust.MAX_PAYLOADS + 7)]
    put(fake, tagged(digest, *[(each, signer.layer(each)) for each in payloads]))
    await node.refuses(name, f"{trust.MAX_PAYLOADS} for another digest, 7 beyond those that are looked at")
    assert fake.count("GET", "/blobs/") == trust.MAX_PAYLOADS


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


async def test_pods_with_different_demands_do_not_share_a_pull(
    node: Node, fake: FakeRegistry, signer: Signer, tmp_path: Path
) -> None:
    name = fake.add_image()
    own = tmp_path / "own.yaml"
    own.write_text(json.dumps({"version": "1", "default": {"keys": [signer.pem]}}))
    node.allow("always")
    library = Library(node.settings)
    try:
        free, strict = await asyncio.gather(
            library.ensure(name, pull_policy="Always"),
            library.ensure(name, pull_policy="Always", policy_file=own),
            return_exceptions=True,
        )
    finally:
        await library.close()
    assert not isinstance(free, BaseException)
    assert isinstance(strict, UserError)
    assert strict.reason == REASON


async def test_records_are_bounded(
    node: Node, fake: FakeRegistry, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "MAX_RECORDS", 20)
    directory = node.settings.directory / "trust"
    directory.mkdir(parents=True)
    for number in range(20):
        (directory / f"{number}.json").write_text("{}")
        os.utime(directory / f"{number}.json", (number, number))
    name = fake.add_image()
    put(fake, signer.tagged(digest_at(fake)))
    node.trusts(signer)
    await node.use(name)
    left = {each.name for each in directory.iterdir()}
    assert len(left) == 19
    assert not {"0.json", "1.json"} & left


def test_a_policy_is_checked_before_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\ndefault: {keys: [none.pub]}\n")
    with pytest.raises(UserError, match=r"none\.pub cannot be read"):
        trust.check_file(tmp_path / "policy.yaml")
