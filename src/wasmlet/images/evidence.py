"""Where signatures of an image lie in its repository, and how they are fetched: never more than a bounded part of them.

- `sha256-<hex>.sig`, a tag: an image manifest with one layer for each signature (cosign until 2, and on demand).
- Referrers (distribution-spec 1.1, "Listing Referrers"): manifests whose subject is the image, with a Sigstore bundle
  (cosign 3) or with layers as above. Registries that do not have that API keep the list at the tag `sha256-<hex>`.

The manifests and lists themselves prove nothing: what counts is a signature below them.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.images.credentials import Credential
from wasmlet.images.failures import RefusedError
from wasmlet.images.manifest import Descriptor, Index, Manifest, parse
from wasmlet.images.reference import Reference
from wasmlet.images.registry import Registry
from wasmlet.images.signatures import BUNDLE_TYPES, SIGN_PREDICATE, SIGNATURE_ANNOTATION, SIMPLE_SIGNING
from wasmlet.images.threads import in_thread

MAX_LAYERS: Final = 1000  # cosign's own bound (pkg/oci/remote/signatures.go)
MAX_REFERRERS: Final = 200
MAX_PAGES: Final = 10
MAX_PAYLOAD_BYTES: Final = 64 << 10  # cosign's have 250 bytes and what `-a` adds
MAX_BUNDLE_BYTES: Final = 1 << 20
_UNTOLD_TYPES: Final = ("", "application/vnd.oci.empty.v1+json")
"""Some registries list a manifest by the type of its config, which is empty in cosign's."""
_SIGNATURE_TYPE: Final = "application/vnd.dev.cosign.artifact.sig.v1+json"
_PREDICATE_ANNOTATION: Final = "dev.sigstore.bundle.predicateType"


@dataclass(frozen=True, slots=True)
class Signed:
    """A payload that lies in the repository, and its signature in base64."""

    payload: Descriptor
    signature: str


class Evidence:
    """The signatures of one image, as its repository has them now.

    Attributes:
        left_out: What was there and not looked at, because it is more, or larger, than anybody needs.
    """

    def __init__(self, registry: Registry, reference: Reference, logins: Sequence[Credential]) -> None:
        self._registry = registry
        self._reference = reference
        self._logins = logins
        self.left_out: list[str] = []

    async def signed(self, digest: str) -> list[Signed]:
        """What the image's `.sig` tag lists.

        Raises:
            UserError: The registry does not let us look, or what is there cannot be read.
            RetryableError: The registry is not well.
        """
        tag = f"{_tag(digest)}.sig"
        manifest = await self._manifest(replace(self._reference, tag=tag, digest=None))
        return self._layers(manifest, tag) if isinstance(manifest, Manifest) else []

    async def referring(self, digest: str) -> AsyncGenerator[Signed | bytes]:
        """What refers to the image: signatures, and contents of Sigstore bundles. Errors as `signed`."""
        referrers = [each for each in await self._referrers(digest) if _is_signature(each)]
        # Those that say that they are signatures come first, so that none has to be looked for in a crowd.
        referrers.sort(key=lambda each: (_predicate(each) != SIGN_PREDICATE, each.artifact_type in _UNTOLD_TYPES))
        if len(referrers) > MAX_REFERRERS:
            self.left_out.append(f"{len(referrers) - MAX_REFERRERS} referrers beyond the first {MAX_REFERRERS}")
        for each in referrers[:MAX_REFERRERS]:
            manifest = await self._manifest(replace(self._reference, tag=None, digest=each.digest))
            if not isinstance(manifest, Manifest):
                continue
            for signed in self._layers(manifest, each.digest):
                yield signed
            for layer in manifest.layers[:1]:
                if layer.media_type.startswith(BUNDLE_TYPES):
                    content = await self.content(layer, MAX_BUNDLE_BYTES)
                    if content is not None:
                        yield content

    async def content(self, blob: Descriptor, limit: int) -> bytes | None:
        """A small blob; None when it is longer than `limit` bytes, or is not there."""
        if blob.size > limit:
            self.left_out.append(f"{blob.digest} with {blob.size} bytes")
            return None
        sink = _Memory()
        try:
            await self._registry.fetch_blob(self._reference, blob, sink, self._logins)
        except NotFoundError:
            return None
        if hashlib.sha256(sink.content).hexdigest() != blob.digest.removeprefix("sha256:"):
            raise RetryableError(
                f"{self._reference.registry} sent another content for {blob.digest}",
                hint="the registry, or something on the way, changed it",
            )
        return bytes(sink.content)

    def _layers(self, manifest: Manifest, where: str) -> list[Signed]:
        found = [
            Signed(layer, (layer.annotations or {})[SIGNATURE_ANNOTATION])
            for layer in manifest.layers
            if layer.media_type == SIMPLE_SIGNING and SIGNATURE_ANNOTATION in (layer.annotations or {})
        ]
        if len(found) > MAX_LAYERS:
            self.left_out.append(f"{len(found) - MAX_LAYERS} signatures of {where} beyond the first {MAX_LAYERS}")
        return found[:MAX_LAYERS]

    async def _referrers(self, digest: str) -> Sequence[Descriptor]:
        found: list[Descriptor] = []
        path = f"referrers/{digest}"
        try:
            for _ in range(MAX_PAGES):
                page = await self._registry.fetch_list(self._reference, path, self._logins)
                part = await in_thread(parse, page.content, page.media_type)
                found += part.manifests if isinstance(part, Index) else ()
                if page.next_path is None:
                    return found
                path = page.next_path
        except RefusedError:
            raise
        except UserError:  # 404 and the like: a registry without this API
            index = await self._manifest(replace(self._reference, tag=_tag(digest), digest=None))
            return index.manifests if isinstance(index, Index) else ()
        self.left_out.append(f"referrers beyond the first {MAX_PAGES} pages")
        return found

    async def _manifest(self, reference: Reference) -> Manifest | Index | None:
        """A manifest that may not be there; one that cannot be read is noted, since others may do."""
        try:
            fetched = await self._registry.fetch_manifest(reference, self._logins)
            return await in_thread(parse, fetched.content, fetched.media_type)
        except NotFoundError:
            return None
        except RefusedError:
            raise
        except UserError as error:
            self.left_out.append(f"{reference.selector}, since {error.message}")
            return None


class _Memory:
    """A sink for small blobs."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self.content += chunk

    def restart(self) -> None:
        self.content.clear()


def _tag(digest: str) -> str:
    return digest.replace(":", "-")


def _is_signature(referrer: Descriptor) -> bool:
    """Whether it says nothing against being a signature; statements of other kinds say what they are."""
    kind = referrer.artifact_type or ""
    if kind != _SIGNATURE_TYPE and kind not in _UNTOLD_TYPES and not kind.startswith(BUNDLE_TYPES):
        return False
    return _predicate(referrer) in ("", SIGN_PREDICATE)


def _predicate(referrer: Descriptor) -> str:
    return (referrer.annotations or {}).get(_PREDICATE_ANNOTATION, "")
