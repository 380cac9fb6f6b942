"""The library: images for pods and for the command line. Registries, store and local files behind one facade."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wasmlet.base.errors import UserError, WasmletError
from wasmlet.base.flights import Flight, Flights
from wasmlet.images import layouts, policy, spin, spin_files
from wasmlet.images.access import Access
from wasmlet.images.application import Component
from wasmlet.images.collection import Disk
from wasmlet.images.configuration import ImageConfig
from wasmlet.images.credentials import Credential, matching
from wasmlet.images.downloads import Downloads, Wanted, choose, described_by
from wasmlet.images.entries import Entry
from wasmlet.images.image import Image, Progress, PullPolicy, StoredImage
from wasmlet.images.layer_bytes import Bounds
from wasmlet.images.layouts import Choice, Interfaces, Layout, WasiOs
from wasmlet.images.local import LocalFiles
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
    pass

PULL_REASONS: Final = (
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    layouts.LINUX_IMAGE,
    policy.REASON,
)


class Library:
    """Images by reference. Make it anywhere, use it on one event loop, close it there.

    Args:
        sources: Who knows further logins when an image is pulled.
    """

    def __init__(self, settings: Settings, *, sources: Sequence[Source] = ()) -> None:
        self._settings = settings
        self._sources = sources
        self._store = Store(settings.directory)
        self._local = LocalFiles()
        self._downloads = Downloads(settings, self._store)
        self._trees = Trees(settings.directory / "trees", Bounds(content_bytes=settings.max_unpacked_bytes))
        self._trust = Trust(settings.directory, settings.policy_file, self._downloads.connected)
        self._places = asyncio.Semaphore(settings.parallel_pulls)
        # Logins and demands are part of the key: who waits for a pull has proved the right to it and trusts it.
        self._pulls: Flights[Wanted, tuple[Image, bool], Progress] = Flights("pull")

    def __repr__(self) -> str:
        return f"<Library {self._settings.directory} {self._pulls!r} {self._downloads!r}>"

    @property
    def directory(self) -> Path:
        """The store."""
        return self._settings.directory

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
                content = await self._downloads.found(parsed)
                if content is not None and await self._may_use(parsed, content.entry, credentials, account):
                    logins = await self._logins(parsed, credentials, account) if demands else ()
                    await self._trust.check(parsed, _digests(content), demands, logins)
                    return await self._image(parsed, content, for_files), False
                if pull_policy == "Never":
                    raise _never_pulled(reference)
            wanted = Wanted(parsed, await self._logins(parsed, credentials, account), demands, for_files)
            return await self._pulls.join(
                wanted,
                lambda flight: self._pull(wanted, flight),
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
                await self._downloads.connected(),
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
        freed = await in_thread(self._store.remove, name, in_use=self._downloads.expected)
        return freed + await in_thread(self.remove_unused_trees)

    async def remove_unneeded(self, *, older_than_seconds: float) -> int:
        """Remove what no image needs any more (a tag that moved leaves blobs); the bytes that this frees."""
        return await in_thread(
            self._store.remove_unneeded, older_than_seconds=older_than_seconds, in_use=self._downloads.expected
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
        await self._downloads.close()
        await self._trees.close()
        await self._local.close()

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

    async def _image(self, reference: Reference, content: Content, for_files: bool) -> Image:
        described = content.config
        if spin.description(content.manifest) is not None:
            described = await in_thread(described_by, self._store, content.manifest, content.config)
        choice = choose(content.manifest, described, for_files)
        tree = await self._trees.of_image(choice, self._store.path, what=f"image {reference}")
        if tree is not None and choice.module is None and not for_files:
            found = await in_thread(spin_files.application, tree, choice.config)
            if found is not None:
                return self._application(reference, content, choice, *found)
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
            components=tuple(
                Component(part, self._store.path(blob.digest), blob.digest, blob.size) for part, blob in choice.parts
            ),
        )

    def _application(
        self, reference: Reference, content: Content, choice: Choice, tree: Tree, components: tuple[Component, ...]
    ) -> Image:
        first = components[0]
        return Image(
            reference=str(reference),
            image_id=f"{reference.name}@{content.entry.resolved_digest}",
            digest=first.digest,
            module=first.module,
            module_name=f"{first.part.name}.wasm",
            config=choice.config,
            size_bytes=sum(blob.size for blob in choice.blobs),
            tree=tree,
            components=components,
        )

    async def _pull(self, wanted: Wanted, flight: Flight[tuple[Image, bool], Progress]) -> tuple[Image, bool]:
        """The work of one pull, for everybody who waits for it."""
        reference = wanted.reference
        async with self._places:
            flight.report(Progress("resolve", str(reference)))
            content = await self._downloads.found(reference)
            if content is not None:
                registry = await self._downloads.connected()
                digest = await registry.resolve(reference, wanted.logins)
                if digest == content.entry.resolved_digest:
                    proved = Access().proved(registry.let_in(reference, wanted.logins))
                    await in_thread(self._store.grant, content.entry, proved)
                    await self._trust.check(reference, _digests(content), wanted.demands, wanted.logins)
                    return await self._image(reference, content, wanted.for_files), False
            content = await self._downloads.download(wanted, self._trust, flight.report)
            return await self._image(reference, content, wanted.for_files), True

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
        content, chains = self._store.content(entry), set[str]()
        if content is None:
            return chains
        for for_files in (False, True):
            with contextlib.suppress(UserError, MissingBlobError):  # another tool's, of a kind that we do not read
                described = described_by(self._store, content.manifest, content.config)
                chains.add(chain_of(choose(content.manifest, described, for_files)))
        return chains - {""}


def _digests(content: Content) -> tuple[str, str]:
    """What an image in the store is known by: what its reference resolved to, and its manifest."""
    return content.entry.resolved_digest, content.entry.manifest.digest


def _never_pulled(reference: str) -> UserError:
    """The same whether the image is not here or not for this pod: who may not have an image does not learn of it."""
    return UserError(
        f'Container image "{reference}" is not present with pull policy of Never',
        hint="pull it here first, give the pod a secret that its registry lets in, or choose another policy",
        reason="ErrImageNeverPull",
    )


@contextlib.contextmanager
def _about(verb: str, subject: str, *, for_pod: bool = False) -> Iterator[None]:
    """Errors say which image they are about; those of pods have a reason that Kubernetes knows."""
    try:
        yield
    except WasmletError as error:
        if error.reason in (policy.REASON, "ErrImageNeverPull"):
            pass  # it has the kubelet's words
        elif error.reason == layouts.LINUX_IMAGE:
            error.message = f"{subject} cannot run here: {error.message}"
        elif subject not in error.message:
            error.message = f"cannot {verb} {subject}: {error.message}"
        if for_pod and error.reason not in PULL_REASONS:
            error.reason = "ErrImagePull"
        raise
