"""A node with a policy, and what signs and misbehaves in its registry."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.cosign import Signer, Written, referrers
from tests.unit.images.fake_registry import FakeRegistry, on
from wasmlet.base.errors import UserError
from wasmlet.images.image import Image
from wasmlet.images.library import Library
from wasmlet.images.manifest import OCI_INDEX, digest_of
from wasmlet.images.settings import Settings

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
