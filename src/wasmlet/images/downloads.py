"""From a registry into the store: manifests, configs and blobs, each blob once however many pulls want it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wasmlet.base.errors import UserError
from wasmlet.base.flights import Flight, Flights
from wasmlet.images import layouts, spin
from wasmlet.images.access import Access
from wasmlet.images.credentials import Credential
from wasmlet.images.digests import Digests, Identity, NotRegularError
from wasmlet.images.entries import Entry
from wasmlet.images.image import Progress
from wasmlet.images.ingest import Ingest, translated
from wasmlet.images.layouts import Choice
from wasmlet.images.manifest import INDEX_TYPES, MAX_MANIFEST_BYTES, Descriptor, Manifest, media_type_of, parse
from wasmlet.images.policy import Demand
from wasmlet.images.reference import Reference
from wasmlet.images.settings import Settings
from wasmlet.images.store import Content, MissingBlobError, Store
from wasmlet.images.threads import in_thread

if TYPE_CHECKING:
    from wasmlet.images.registry import Fetched, Registry
    from wasmlet.images.trust import Trust

_STORE_ATTEMPTS: Final = 3  # another process would have to remove the image's blobs each time


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a pull is for; pulls that want the same are one."""

    reference: Reference
    logins: tuple[Credential, ...]
    demands: tuple[Demand, ...]
    for_files: bool


class Downloads:
    """What fills one store, and knows which of its blobs are what their digests say."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._registry: Registry | None = None
        self._connecting = asyncio.Lock()
        self._digests = Digests()
        self._coming: dict[Wanted, set[str]] = {}
        # The source is part of the key: a registry that drips must not hold up the same blob from another one.
        self._blobs: Flights[tuple[str, str], None, int] = Flights("download")

    def __repr__(self) -> str:
        return repr(self._blobs)

    @property
    def expected(self) -> frozenset[str]:
        """Digests of images that are being pulled, which no entry names yet."""
        return frozenset().union(*self._coming.values())

    async def close(self) -> None:
        """Stop every download, and close the connections. Idempotent."""
        await self._blobs.close()
        await self._digests.close()
        if self._registry is not None:
            await self._registry.close()

    async def found(self, reference: Reference) -> Content | None:
        """The image in the store, when every byte of it is what its digests say."""
        content, doubtful = await in_thread(self._find, reference)
        for blob in doubtful:
            if not await self._is_intact(blob):
                return None  # The pull that follows brings it again.
        return content

    def _find(self, reference: Reference) -> tuple[Content | None, list[Descriptor]]:
        """The image, and its modules that this process has not hashed; who unpacks layers of files looks at those."""
        content = self._store.find(str(reference))
        if content is None and reference.digest is not None:
            content = self._store.find_resolved(reference.name, reference.digest)
        layers = () if content is None else content.manifest.layers
        return content, [each for each in layers if each.media_type in layouts.WASM_LAYERS and not self._is_known(each)]

    def _is_known(self, blob: Descriptor) -> bool:
        try:
            return self._digests.remembered(self._store.path(blob.digest)) == blob.digest
        except (OSError, NotRegularError):
            return False

    async def _is_intact(self, blob: Descriptor) -> bool:
        """Whether the blob is here as its digest says: a power cut, a hand or another tool may have changed it."""
        try:
            return await self._digests.of(self._store.path(blob.digest)) == (blob.digest, blob.size)
        except (OSError, NotRegularError):
            return False

    async def download(self, wanted: Wanted, trust: Trust, report: Callable[[Progress], None]) -> Content:
        """The image in the store, as the registry has it now; nothing that is here is moved again.

        Args:
            trust: Asked before the first blob: what nobody vouches for does not even come here.
        """
        try:
            for _ in range(_STORE_ATTEMPTS - 1):
                with contextlib.suppress(MissingBlobError):
                    return await self._download(wanted, trust, report)
            return await self._download(wanted, trust, report)
        finally:
            self._coming.pop(wanted, None)

    async def _download(self, wanted: Wanted, trust: Trust, report: Callable[[Progress], None]) -> Content:
        reference, logins = wanted.reference, wanted.logins
        registry = await self.connected()
        resolved = await registry.fetch_manifest(reference, logins)
        proved = Access().proved(registry.let_in(reference, logins))
        fetched, manifest = await self._choose_platform(wanted, resolved)
        await trust.check(reference, (resolved.digest, fetched.digest), wanted.demands, logins)
        if manifest.config.size > MAX_MANIFEST_BYTES:
            raise UserError(f"the config of image {reference} is longer than {MAX_MANIFEST_BYTES} bytes")
        await self._fetch(wanted, manifest.config, lambda _: None)
        config = await in_thread(self._store.read, manifest.config)
        await self._fetch_application(wanted, manifest)
        choice = choose(manifest, await in_thread(described_by, self._store, manifest, config), wanted.for_files)
        self._check_size(reference, choice)
        total, done = sum(blob.size for blob in choice.blobs), 0

        def received(count: int) -> None:
            report(Progress("download", str(reference), done + count, total))

        received(0)
        for blob in choice.blobs:
            await self._fetch(wanted, blob, received)
            done += blob.size
        media_type = media_type_of(fetched.content, fetched.media_type)
        descriptor = Descriptor(media_type=media_type, digest=fetched.digest, size=len(fetched.content))
        entry = Entry(str(reference), descriptor, resolved.digest, access=proved)
        await in_thread(self._enter, entry, fetched.content)
        return Content(entry, manifest, config)

    async def _fetch_application(self, wanted: Wanted, manifest: Manifest) -> None:
        application = spin.description(manifest)
        if application is None:
            return
        if application.size > MAX_MANIFEST_BYTES:
            raise UserError(f"the application of image {wanted.reference} is longer than {MAX_MANIFEST_BYTES} bytes")
        await self._fetch(wanted, application, lambda _: None)

    def _enter(self, entry: Entry, manifest: bytes) -> None:
        self._store.add(entry.manifest, manifest)
        self._store.put(entry)

    def _check_size(self, reference: Reference, choice: Choice) -> None:
        limit = self._settings.max_module_bytes
        largest = max((module.size for module in choice.modules), default=0)
        if largest > limit:
            raise UserError(f"the module of image {reference} has {largest} bytes, more than this node takes ({limit})")
        size, limit = sum(layer.size for layer in choice.layers), self._settings.max_unpacked_bytes
        if size > limit:
            raise UserError(f"the layers of image {reference} have {size} bytes, more than this node takes ({limit})")

    async def _choose_platform(self, wanted: Wanted, resolved: Fetched) -> tuple[Fetched, Manifest]:
        """The manifest itself, or the one for Wasm in an index."""
        manifest = parse(resolved.content, resolved.media_type)
        if isinstance(manifest, Manifest):
            return resolved, manifest
        chosen = layouts.choose_platform(manifest, for_files=wanted.for_files)
        registry = await self.connected()
        fetched = await registry.fetch_manifest(wanted.reference, wanted.logins, digest=chosen.digest)
        manifest = parse(fetched.content, fetched.media_type)
        if not isinstance(manifest, Manifest):
            kind = f"an index of indexes ({INDEX_TYPES[0]})"
            raise UserError(f"image {wanted.reference} is {kind}, which wasmlet does not read")
        return fetched, manifest

    async def _fetch(self, wanted: Wanted, blob: Descriptor, received: Callable[[int], None]) -> None:
        """The blob in the store; one download for each source, however many pulls want it."""
        reference, logins = wanted.reference, wanted.logins
        self._coming.setdefault(wanted, set()).add(blob.digest)
        if await self._is_intact(blob):
            received(blob.size)
            return

        async def download(flight: Flight[None, int]) -> None:
            registry = await self.connected()
            ingest = self._store.ingest()  # Not in a thread: what a cancelled thread opened would be lost.
            try:
                await registry.fetch_blob(reference, blob, ingest, logins, received=flight.report)
                self._digests.remember(await in_thread(self._commit, ingest, blob), blob.digest)
            finally:
                ingest.close()

        await self._blobs.join(
            (reference.name, blob.digest), download, received, label=f"{reference.name}@{blob.digest}"
        )

    def _commit(self, ingest: Ingest, blob: Descriptor) -> Identity:
        path = self._store.path(blob.digest)
        ingest.commit(blob, path)
        with translated(self._store.directory, "read"):
            return self._digests.identify(path)

    async def connected(self) -> Registry:
        """The registry client; importing aiohttp takes long, so it comes with the first use and in a thread."""
        async with self._connecting:
            if self._registry is None:
                self._registry = await in_thread(_import_registry, self._settings)
            return self._registry


def described_by(store: Store, manifest: Manifest, config: bytes) -> bytes:
    """What says how an image's parts belong together: its config, or a layer of a Spin application.

    Raises:
        MissingBlobError: That layer is not here any more.
    """
    application = spin.description(manifest)
    return config if application is None else store.read(application)


def choose(manifest: Manifest, described: bytes, for_files: bool) -> Choice:
    """The parts of an image to run, or of whatever is to be a volume (`for_files`). Raises UserError.

    Args:
        described: See `described_by`.
    """
    if for_files:
        return layouts.choose_files(manifest, described)
    if spin.description(manifest) is not None:
        return spin.choose(manifest, described)
    return layouts.choose(manifest, described)


def _import_registry(settings: Settings) -> Registry:
    from wasmlet.images.registry import Registry  # noqa: PLC0415

    return Registry(settings)
