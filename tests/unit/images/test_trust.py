"""Trust: what a policy lets run, whose word counts, and what is remembered of it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.cosign import Signer, payload_of, referrer, tagged
from tests.support.sigstore import ISSUER, SUBJECT, Sigstore
from tests.unit.images.fake_registry import FakeRegistry, on
from tests.unit.images.trusting import REASON, Node, digest_at, put, with_referrers
from wasmlet.base.errors import UserError
from wasmlet.images import keys, trust
from wasmlet.images.library import Library
from wasmlet.images.manifest import digest_of


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
