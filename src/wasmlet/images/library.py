"""The library: images for pods and for the command line. Registries, store and local files behind one facade."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from wasmlet.base.errors import UserError, WasmletError
from wasmlet.base.flights import Flight, Flights
from wasmlet.images import layouts, policy
from wasmlet.images.access import Access
from wasmlet.images.collection import Disk
from wasmlet.images.configuration import ImageConfig
from wasmlet.images.credentials import Credential, matching
from wasmlet.images.digests import Digests, Identity, NotRegularError
from wasmlet.images.entries import Entry
from wasmlet.images.ingest import Ingest, translated
from wasmlet.images.layers import Bounds
from wasmlet.images.layouts import Choice, Interfaces, Layout, WasiOs
from wasmlet.images.local import LocalFiles
from wasmlet.images.manifest import (
    INDEX_TYPES,
    MAX_MANIFEST_BYTES,
    Descriptor,
    Manifest,
    media_type_of,
    parse,
)
from wasmlet.images.policy import Demand
from wasmlet.images.pushing import push_module
from wasmlet.images.reference import LocalFile, Reference, parse_remote
from wasmlet.images.reference import parse as parse_reference
from wasmlet.images.settings import Settings
from wasmlet.images.sources import Account, Source
from wasmlet.images.store import Content, MissingBlobError, Store
from wasmlet.images.threads import in_thread
from wasmlet.images.trees import Tree, Trees, chain_of
from wasmlet.images.trust import Trust

if TYPE_CHECKING:
    from wasmlet.images.registry import Fetched, Registry

PullPolicy = Literal["Always", "IfNotPresent", "Never"]
PULL_REASONS: Final = (
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    layouts.LINUX_IMAGE,
    policy.REASON,
)
_STORE_ATTEMPTS: Final = 3  # another process would have to remove the image's blobs each time


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pull is.

    Attributes:
        stage: `resolve` asks the registry what the name stands for, `download` moves the module and the layers.
        received_bytes: Of what is moved.
        total_bytes: Of what is moved; 0 while it is not known.
    """

    stage: Literal["resolve", "download"]
    reference: str
    received_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be run.

    Attributes:
        reference: Canonical.
        image_id: `registry/repository@sha256:…` as the registry resolved it; `sha256:…` for a local file.
        digest: Of the module's bytes, the key of everything compiled from it; "" when the program is in `tree`.
        module: The file with the Wasm bytes, or the directory of `tree`. Read only; a module stays while its digest
            is named in `in_use`.
        module_name: argv[0] of a container that gives no command; "" when the program is in `tree`.
        size_bytes: Of the module and the layers.
        tree: The root file system, None when the image has none.
    """

    reference: str
    image_id: str
    digest: str
    module: Path
    module_name: str
    config: ImageConfig
    size_bytes: int
    tree: Tree | None = None


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A line of the list of images.

    Attributes:
        digest: As the registry resolved the reference.
        size_bytes: Of all the image's blobs, and of the files they are unpacked to.
        created: When the image came into the store, RFC 3339; "" when another tool put it there.
    """

    reference: str
    digest: str
    size_bytes: int
    created: str

    @property
    def repository(self) -> str:
        """`registry/repository` of the reference."""
        whole = self.reference.partition("@")[0]
        path, colon, tag = whole.rpartition(":")
        return path if colon and "/" not in tag else whole

    @property
    def image_id(self) -> str:
        """As `Image.image_id`."""
        return f"{self.repository}@{self.digest}"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a pull is for; pulls that want the same are one."""

    reference: Reference
    logins: tuple[Credential, ...]
    demands: tuple[Demand, ...]
    for_files: bool


class Library:
    """Images by reference. Make it anywhere, use it on one event loop, close it there.

    Args:
        sources: Who knows further logins when an image is pulled.
    """

    def __init__(self, settings: Settings, *, sources: Sequence[Source] = ()) -> None:
        self._settings = settings
        self._sources = sources
        self._store = Store(settings.directory)
        self._registry: Registry | None = None
        self._connecting = asyncio.Lock()
        self._local = LocalFiles()
        self._digests = Digests()
        self._trees = Trees(settings.directory / "trees", Bounds(content_bytes=settings.max_unpacked_bytes))
        self._coming: dict[_Wanted, set[str]] = {}  # blobs of images that are being pulled, which no entry names yet
        self._trust = Trust(settings.directory, settings.policy_file, self._connected)
        self._places = asyncio.Semaphore(settings.parallel_pulls)
        # Logins and demands are part of the key: who waits for a pull has proved the right to it and trusts it.
        self._pulls: Flights[_Wanted, tuple[Image, bool], Progress] = Flights("pull")
        # The source is part of the key: a registry that drips must not hold up the same blob from another one.
        self._blobs: Flights[tuple[str, str], None, int] = Flights("download")

    def __repr__(self) -> str:
        return f"<Library {self._settings.directory} {self._pulls!r} {self._blobs!r}>"

    async def ensure(
        self,
        reference: str,
        *,
        pull_policy: PullPolicy,
        credentials: Sequence[Credential] = (),
        account: Account | None = None,
        policy_file: Path | None = None,
        progress: Callable[[Progress], None] | None = None,
        for_files: bool = False,
    ) -> tuple[Image, bool]:
        """The image, and whether it was downloaded for this call.

        Args:
            for_files: Nothing of it is run: any image or artifact will do, and all that it holds is in its `tree`.
            pull_policy: `Always` asks the registry each time and downloads what changed; `IfNotPresent` asks when
                the store does not have it; `Never` does not ask. A local file is always looked at afresh.
            credentials: All there are; those that fit the reference are tried in order.
            account: Of the pod that wants it; for credential providers.
            policy_file: A policy that must let the image run beside the node's own.
            progress: Told on the event loop; one that raises is not told again.

        Raises:
            UserError: The image cannot be had or used as it is.
            NotFoundError: Neither registry nor machine has it.
            RetryableError: It may work later. The reason of all three is one of `PULL_REASONS`.
        """
        parsed = parse_reference(reference)
        with _about("pull", f"image {parsed}", for_pod=True):
            demands = await self._trust.demands(parsed, policy_file)
            if isinstance(parsed, LocalFile):
                if for_files:
                    raise UserError("a file cannot be a volume", hint="use a hostPath", reason="InvalidImageName")
                image = await self._local_image(parsed)
                await self._trust.check(parsed, (image.digest,), demands)
                return image, False
            if pull_policy != "Always":
                content = await self._found(parsed)
                if content is not None and await self._may_use(parsed, content.entry, credentials, account):
                    logins = await self._logins(parsed, credentials, account) if demands else ()
                    await self._trust.check(parsed, _digests(content), demands, logins)
                    return await self._image(parsed, content, for_files), False
                if pull_policy == "Never":
                    raise _never_pulled(parsed, is_here=content is not None)
            wanted = _Wanted(parsed, await self._logins(parsed, credentials, account), demands, for_files)
            return await self._pulls.join(
                wanted,
                lambda flight: self._pull_expected(wanted, flight),
                progress,
                label=str(parsed),
            )

    async def pull(
        self,
        reference: str,
        *,
        credentials: Sequence[Credential] = (),
        progress: Callable[[Progress], None] | None = None,
    ) -> Image:
        """The image as the registry has it now; as `ensure` with `Always`."""
        image, _ = await self.ensure(reference, pull_policy="Always", credentials=credentials, progress=progress)
        return image

    async def push(
        self,
        module: Path,
        reference: str,
        *,
        layout: Layout = "cncf",
        wasi_os: WasiOs | None = None,
        credentials: Sequence[Credential] = (),
        annotations: Mapping[str, str] | None = None,
        interfaces: Interfaces | None = None,
    ) -> str:
        """Upload a Wasm file as an image; the digest of its manifest. The same file gives the same digest.

        Args:
            wasi_os: None takes `wasip2` for a component and `wasip1` for a core module.
            annotations: Of the manifest.
            interfaces: What a component imports and exports, for those who look for images by that.

        Raises:
            UserError: Not a Wasm file, no right to push, or a reference with a digest or to a local file.
            RetryableError: The registry is not well.
        """
        parsed = parse_remote(reference)
        with _about("push", f"image {parsed}"):
            return await push_module(
                await self._connected(),
                module,
                parsed,
                layout=layout,
                wasi_os=wasi_os,
                logins=await self._logins(parsed, credentials),
                annotations=annotations or {},
                interfaces=interfaces,
            )

    async def images(self) -> list[StoredImage]:
        """What the store has, by reference.

        Raises:
            UserError: The store cannot be read.
        """
        return await in_thread(self._list)

    def mark(self) -> object:
        """Equal marks mean an equal list of `images`; one look at one file, so it may be asked often."""
        return self._store.mark()

    async def remove(self, reference: str, *, in_use: Collection[str] = ()) -> None:
        """Forget a reference, and delete the blobs that no other image needs.

        Args:
            in_use: `Image.digest` of every running container; those blobs stay.

        Raises:
            NotFoundError: The store does not have it.
        """
        await in_thread(self._store.remove, str(parse_remote(reference)), in_use=frozenset(in_use))
        await in_thread(self.remove_unused_trees)

    def remove_unused_trees(self) -> int:
        """Remove the unpacked files of images that are gone, which no container needs; how many bytes that frees."""
        return self._trees.keep_only({chain for entry in self._store.entries() for chain in self._chains(entry)})

    async def lay(self, image: Image, destination: Path, *, writable: bool) -> None:
        """Fill the empty directory `destination` with the files of an image that has a `tree`.

        Args:
            writable: Whether a guest may change what it gets; else the files are shared with others.

        Raises:
            RetryableError: They were damaged or removed and cannot be unpacked again now.
            OSError: The disk says no.
        """
        assert image.tree is not None
        await self._trees.lay(image.tree, destination, writable=writable, what=f"image {image.reference}")

    async def discard(self, name: str) -> int:
        """As `remove`, of an entry by its very name (another tool may have written any); the bytes that this frees."""
        freed = await in_thread(self._store.remove, name, in_use=self._expected())
        return freed + await in_thread(self.remove_unused_trees)

    async def remove_unneeded(self, *, older_than_seconds: float) -> int:
        """Remove what no image needs any more (a tag that moved leaves blobs); the bytes that this frees."""
        return await in_thread(
            self._store.remove_unneeded, older_than_seconds=older_than_seconds, in_use=self._expected()
        )

    async def disk(self) -> Disk:
        """The file system of the store.

        Raises:
            RetryableError: It does not answer.
        """
        return await in_thread(self._store.disk)

    async def close(self) -> None:
        """Stop every download, leaving nothing half done, and close the connections. Idempotent."""
        await self._pulls.close()
        await self._blobs.close()
        await self._trees.close()
        await self._local.close()
        await self._digests.close()
        if self._registry is not None:
            await self._registry.close()

    def _expected(self) -> frozenset[str]:
        return frozenset().union(*self._coming.values())

    async def _local_image(self, file: LocalFile) -> Image:
        if not self._settings.allow_local_files:
            raise UserError(
                f"image {file} is a local file, which this node does not allow",
                hint="push it to a registry: pods of a cluster cannot name files of its nodes",
                reason="InvalidImageName",
            )
        digest, size_bytes = await self._local.digest(file)
        return Image(str(file), digest, digest, file.path, file.path.name, ImageConfig(), size_bytes)

    async def _logins(
        self, reference: Reference, credentials: Sequence[Credential], account: Account | None = None
    ) -> tuple[Credential, ...]:
        """Those that were given and those that the sources know now, as far as they fit."""
        asked = [login for source in self._sources for login in await source.logins(reference, account)]
        return matching((*credentials, *asked), reference)

    async def _may_use(
        self, reference: Reference, entry: Entry, credentials: Sequence[Credential], account: Account | None
    ) -> bool:
        """Whether a pod may use an image that is here without asking its registry."""
        if not self._settings.verification.is_needed(reference, entry.access):
            return True
        access = entry.access or Access()
        admitting = access.admitting(matching(credentials, reference))
        if admitting is not None:
            if admitting != access:
                await in_thread(self._store.grant, entry, admitting)
            return True
        if account is None or not access.knows_accounts:
            return False
        uid, _ = await account.look()
        return access.admits_account(account.namespace, account.name, uid)

    async def _found(self, reference: Reference) -> Content | None:
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

    async def _image(self, reference: Reference, content: Content, for_files: bool) -> Image:
        choice = _choose(content.manifest, content.config, for_files)
        tree = await self._trees.of_image(choice, self._store.path, what=f"image {reference}")
        module = choice.module
        named = choice.module_name or f"{posixpath.basename(reference.repository)}.wasm"
        return Image(
            reference=str(reference),
            image_id=f"{reference.name}@{content.entry.resolved_digest}",
            digest="" if module is None else module.digest,
            module=self._store.path(module.digest) if module is not None else self._settings.directory,
            module_name="" if module is None else named,
            config=choice.config,
            size_bytes=sum(blob.size for blob in choice.blobs),
            tree=tree,
        )

    async def _pull_expected(self, wanted: _Wanted, flight: Flight[tuple[Image, bool], Progress]) -> tuple[Image, bool]:
        try:
            return await self._pull(wanted, flight)
        finally:
            self._coming.pop(wanted, None)

    async def _pull(self, wanted: _Wanted, flight: Flight[tuple[Image, bool], Progress]) -> tuple[Image, bool]:
        """The work of one pull, for everybody who waits for it."""
        reference = wanted.reference
        async with self._places:
            flight.report(Progress("resolve", str(reference)))
            await in_thread(self._store.prepare)
            content = await self._found(reference)
            if content is not None:
                registry = await self._connected()
                digest = await registry.resolve(reference, wanted.logins)
                if digest == content.entry.resolved_digest:
                    proved = Access().proved(registry.let_in(reference, wanted.logins))
                    await in_thread(self._store.grant, content.entry, proved)
                    await self._trust.check(reference, _digests(content), wanted.demands, wanted.logins)
                    return await self._image(reference, content, wanted.for_files), False
            for _ in range(_STORE_ATTEMPTS - 1):
                with contextlib.suppress(MissingBlobError):
                    return await self._download(wanted, flight), True
            return await self._download(wanted, flight), True

    async def _download(self, wanted: _Wanted, flight: Flight[tuple[Image, bool], Progress]) -> Image:
        reference, logins = wanted.reference, wanted.logins
        registry = await self._connected()
        resolved = await registry.fetch_manifest(reference, logins)
        proved = Access().proved(registry.let_in(reference, logins))
        fetched, manifest = await self._choose_platform(wanted, resolved)
        # Before its first blob: what nobody vouches for does not even come here.
        await self._trust.check(reference, (resolved.digest, fetched.digest), wanted.demands, logins)
        if manifest.config.size > MAX_MANIFEST_BYTES:
            raise UserError(f"the config of image {reference} is longer than {MAX_MANIFEST_BYTES} bytes")
        await self._fetch(wanted, manifest.config, lambda _: None)
        config = await in_thread(self._store.read, manifest.config)
        choice = _choose(manifest, config, wanted.for_files)
        self._check_size(reference, choice)
        total, done = sum(blob.size for blob in choice.blobs), 0

        def received(count: int) -> None:
            flight.report(Progress("download", str(reference), done + count, total))

        received(0)
        for blob in choice.blobs:
            await self._fetch(wanted, blob, received)
            done += blob.size
        media_type = media_type_of(fetched.content, fetched.media_type)
        descriptor = Descriptor(media_type=media_type, digest=fetched.digest, size=len(fetched.content))
        entry = Entry(str(reference), descriptor, resolved.digest, access=proved)
        await in_thread(self._store.add, descriptor, fetched.content)
        await in_thread(self._store.put, entry)
        return await self._image(reference, Content(entry, manifest, config), wanted.for_files)

    def _check_size(self, reference: Reference, choice: Choice) -> None:
        limit = self._settings.max_module_bytes
        if choice.module is not None and choice.module.size > limit:
            raise UserError(
                f"the module of image {reference} has {choice.module.size} bytes, more than this node takes ({limit})"
            )
        size, limit = sum(layer.size for layer in choice.layers), self._settings.max_unpacked_bytes
        if size > limit:
            raise UserError(f"the layers of image {reference} have {size} bytes, more than this node takes ({limit})")

    async def _choose_platform(self, wanted: _Wanted, resolved: Fetched) -> tuple[Fetched, Manifest]:
        """The manifest itself, or the one for Wasm in an index."""
        manifest = parse(resolved.content, resolved.media_type)
        if isinstance(manifest, Manifest):
            return resolved, manifest
        chosen = layouts.choose_platform(manifest, for_files=wanted.for_files)
        registry = await self._connected()
        fetched = await registry.fetch_manifest(wanted.reference, wanted.logins, digest=chosen.digest)
        manifest = parse(fetched.content, fetched.media_type)
        if not isinstance(manifest, Manifest):
            kind = f"an index of indexes ({INDEX_TYPES[0]})"
            raise UserError(f"image {wanted.reference} is {kind}, which wasmlet does not read")
        return fetched, manifest

    async def _fetch(self, wanted: _Wanted, blob: Descriptor, received: Callable[[int], None]) -> None:
        """The blob in the store; one download for each source, however many pulls want it."""
        reference, logins = wanted.reference, wanted.logins
        self._coming.setdefault(wanted, set()).add(blob.digest)
        if await self._is_intact(blob):
            received(blob.size)
            return

        async def download(flight: Flight[None, int]) -> None:
            registry = await self._connected()
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

    async def _connected(self) -> Registry:
        """The registry client; importing aiohttp takes long, so it comes with the first use and in a thread."""
        async with self._connecting:
            if self._registry is None:
                self._registry = await in_thread(_import_registry, self._settings)
            return self._registry

    def _list(self) -> list[StoredImage]:
        return sorted(
            (
                StoredImage(entry.name, entry.resolved_digest, self._size_bytes(entry), entry.stored_at)
                for entry in self._store.entries()
            ),
            key=lambda image: image.reference,
        )

    def _size_bytes(self, entry: Entry) -> int:
        return self._store.size_bytes(entry) + sum(map(self._trees.size_bytes, self._chains(entry)))

    def _chains(self, entry: Entry) -> set[str]:
        """The names of the trees that an image may have: as a container's root, and as a volume."""
        content, chains = self._store.find(entry.name), set[str]()
        if content is None:
            return chains
        for for_files in (False, True):
            with contextlib.suppress(UserError):  # another tool's, of a kind that we do not read
                chains.add(chain_of(_choose(content.manifest, content.config, for_files)))
        return chains - {""}


def _choose(manifest: Manifest, config: bytes, for_files: bool) -> Choice:
    return layouts.choose_files(manifest, config) if for_files else layouts.choose(manifest, config)


def _digests(content: Content) -> tuple[str, str]:
    """What an image in the store is known by: what its reference resolved to, and its manifest."""
    return content.entry.resolved_digest, content.entry.manifest.digest


def _never_pulled(reference: Reference, *, is_here: bool) -> UserError:
    what = (
        "is on this node, but not for this pod, which showed no login that its registry let in,"
        if is_here
        else ("is not on this node")
    )
    hint = "give the pod the imagePullSecret that it was pulled with" if is_here else f"`wasmlet pull {reference}` here"
    return UserError(
        f"image {reference} {what} and imagePullPolicy is Never", hint=f"{hint}, or another policy",
        reason="ErrImageNeverPull",
    )  # fmt: skip


@contextlib.contextmanager
def _about(verb: str, subject: str, *, for_pod: bool = False) -> Iterator[None]:
    """Errors say which image they are about; those of pods have a reason that Kubernetes knows."""
    try:
        yield
    except WasmletError as error:
        if error.reason == policy.REASON:
            pass  # it has the kubelet's words
        elif error.reason == layouts.LINUX_IMAGE:
            error.message = f"{subject} cannot run here: {error.message}"
        elif subject not in error.message:
            error.message = f"cannot {verb} {subject}: {error.message}"
        if for_pod and error.reason not in PULL_REASONS:
            error.reason = "ErrImagePull"
        raise


def _import_registry(settings: Settings) -> Registry:
    from wasmlet.images.registry import Registry  # noqa: PLC0415

    return Registry(settings)
