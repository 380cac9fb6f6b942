"""The OCI distribution API (distribution-spec 1.1): manifests and blobs, there and back.

Every method takes the image's reference and the logins to try in order (already chosen by `credentials.matching`;
none means anonymously), and raises

- `NotFoundError`: the registry does not have it;
- `UserError`: refused, or not something that wasmlet takes;
- `RetryableError`: registry, network or disk are not well, or what came is not what its digest says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol
from urllib.parse import urljoin

from yarl import URL

from wasmlet.base.errors import NotFoundError, RetryableError, UserError, WasmletError
from wasmlet.base.http import aiohttp
from wasmlet.images.authentication import Authenticator, Scope, parse_challenges
from wasmlet.images.calls import Call, elsewhere, reading
from wasmlet.images.credentials import Credential
from wasmlet.images.endpoints import Endpoints
from wasmlet.images.failures import RefusedError, failure_of, login_refused
from wasmlet.images.hosts import Endpoint
from wasmlet.images.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    Descriptor,
    digest_of,
)
from wasmlet.images.reference import Reference, is_digest
from wasmlet.images.settings import Settings
from wasmlet.images.threads import Behind, in_thread
from wasmlet.images.transport import (
    LEAST_PROGRESS_BYTES,
    READ_SIZE,
    PassingError,
    Progress,
    Transport,
)

WRITE_SIZE: Final = 1 << 20  # per hop to a thread: hashing and writing 1 MiB takes about 1 ms, the hop 0.1 ms
_MAX_NOTED: Final = 1024
_PULL: Final = "pull"
_PUSH: Final = "pull,push"
_ACCEPT: Final = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
_DIGEST_HEADER: Final = "Docker-Content-Digest"
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Takes the bytes of a blob; called in threads, one call at a time."""

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append all of them."""

    def restart(self) -> None:
        """Forget everything."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest as it came.

    Attributes:
        media_type: As the registry declares it.
        digest: Of the content, computed here.
    """

    content: bytes
    media_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list.

    Attributes:
        next_path: Where the next part is; None after the last one.
    """

    content: bytes
    media_type: str
    next_path: str | None


class Registry:
    """A client of every registry. Make it anywhere, use it on one event loop, close it there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._transport = Transport(settings)
        self._authenticator = Authenticator(self._transport)
        self._endpoints = Endpoints(settings, self._transport)
        self._let_in: dict[tuple[str, str, tuple[Credential, ...]], Credential | None] = {}

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        await self._transport.close()

    def let_in(self, reference: Reference, logins: Sequence[Credential]) -> Credential | None:
        """Which of the logins the registry let in when it was last asked for the image; None: it wanted none."""
        return self._let_in.get((reference.registry, reference.repository, tuple(logins)))

    async def resolve(self, reference: Reference, logins: Sequence[Credential] = ()) -> str:
        """The digest that the registry has for the reference now."""
        call = Call(
            reference, logins, _PULL, "HEAD", f"manifests/{reference.selector}",
            capability=reading(reference), accept=_ACCEPT,
        )  # fmt: skip

        async def act() -> str:
            async with self._open(call, what=f"image {reference}") as response:
                return response.headers.get(_DIGEST_HEADER, "")

        digest = await self._transport.attempts(act)
        if is_digest(digest):
            return digest
        return (await self.fetch_manifest(reference, logins)).digest

    async def fetch_manifest(
        self, reference: Reference, logins: Sequence[Credential] = (), *, digest: str | None = None
    ) -> Fetched:
        """The manifest of the reference, or that of `digest` in its repository; at most 4 MiB."""
        expected = digest or reference.digest
        call = Call(
            reference, logins, _PULL, "GET", f"manifests/{expected or reference.selector}",
            capability="pull" if expected else "resolve", accept=_ACCEPT,
        )  # fmt: skip
        what = f"image {reference}"

        async def act() -> Fetched:
            async with self._open(call, what=what) as response:
                content = await self._transport.read_small(
                    response, MAX_MANIFEST_BYTES, what=f"the manifest of {what} in {reference.registry}"
                )
                return Fetched(content, response.headers.get("Content-Type", ""), digest_of(content))

        fetched = await self._transport.attempts(act)
        if expected is not None and fetched.digest != expected:
            raise RetryableError(
                f"{reference.registry} sent another manifest for {what}: {fetched.digest} instead of {expected}",
                hint="the registry, or something on the way, changed it",
            )
        return fetched

    async def fetch_list(self, reference: Reference, path: str, logins: Sequence[Credential] = ()) -> Page:
        """A list below the reference's repository, at most 4 MiB of it: `referrers/{digest}`, or a `next_path`."""
        what = f"what belongs to image {reference}"
        call = Call(reference, logins, _PULL, "GET", path, accept=OCI_INDEX)

        async def act() -> Page:
            async with self._open(call, what=what) as response:
                content = await self._transport.read_small(response, MAX_MANIFEST_BYTES, what=f"the list of {what}")
                link = response.links.get("next")
                following = None if link is None else link.get("url")
                is_own = isinstance(following, URL) and following.origin() == response.url.origin()
                return Page(content, response.headers.get("Content-Type", ""), str(following) if is_own else None)

        return await self._transport.attempts(act)

    async def fetch_blob(
        self,
        reference: Reference,
        blob: Descriptor,
        sink: Sink,
        logins: Sequence[Credential] = (),
        *,
        received: Callable[[int], None] | None = None,
    ) -> None:
        """The content of a blob into an empty sink, which checks the digest; never more than the blob's length.

        Args:
            received: Told the number of bytes so far.
        """
        what = f"blob {blob.digest} of image {reference}"
        count = 0

        async def act() -> None:
            nonlocal count
            call = Call(
                reference, logins, _PULL, "GET", f"blobs/{blob.digest}", range_from=count, success=(200, 206, 416)
            )
            async with (
                self._open(call, what=what) as response,
                contextlib.aclosing(self._pieces(response, what)) as pieces,
                Behind() as writing,
            ):
                if not _continues(response, count) and count:
                    await in_thread(sink.restart)
                    count = 0
                if response.status == 416:
                    raise PassingError(f"{what} does not begin where it was cut")
                async for chunks in pieces:
                    size = sum(map(len, chunks))
                    if count + size > blob.size:
                        raise RetryableError(f"{what} is longer than its {blob.size} bytes")
                    await writing.call(sink.write, chunks)
                    count += size
                    if received is not None:
                        received(count)
                if count < blob.size:
                    raise PassingError(f"{what} ended after {count} of {blob.size} bytes")

        await self._transport.attempts(act, moved=lambda: count)

    async def has_blob(self, reference: Reference, digest: str, logins: Sequence[Credential] = ()) -> bool:
        """Whether the repository has the blob, asked with the right to push."""
        call = Call(reference, logins, _PUSH, "HEAD", f"blobs/{digest}", capability="push")

        async def act() -> bool:
            async with self._open(call, what=f"blob {digest}"):
                return True

        try:
            return await self._transport.attempts(act)
        except NotFoundError:
            return False

    async def push_blob(
        self, reference: Reference, blob: Descriptor, stream: BinaryIO, logins: Sequence[Credential] = ()
    ) -> None:
        """Upload a blob in one piece (POST, then PUT), unless it is there.

        Args:
            stream: The content, read from its start; the caller closes it.
        """
        if await self.has_blob(reference, blob.digest, logins):
            return
        what = f"blob {blob.digest} for image {reference}"
        begin = Call(reference, logins, _PUSH, "POST", "blobs/uploads/", capability="push", success=(202,))

        async def upload(progress: Progress) -> AsyncIterator[bytes]:
            await in_thread(stream.seek, 0)
            while chunk := await in_thread(stream.read, READ_SIZE):
                progress.made()
                yield chunk
            progress.made()

        async def act() -> None:
            async with self._open(begin, what=what) as response:
                location = urljoin(str(response.url), response.headers.get("Location", ""))
                if not location.startswith("https://") and response.url.scheme == "https":
                    raise RetryableError(f"{reference.registry} wants {what} sent without TLS, which is not done")
            separator = "&" if "?" in location else "?"
            finish = Call(
                reference,
                logins,
                _PUSH,
                "PUT",
                f"{location}{separator}digest={blob.digest}",
                capability="push",
                content_type="application/octet-stream",
                upload=upload,
                size_bytes=blob.size,
                success=(201,),
            )
            async with self._open(finish, what=what):
                pass

        await self._transport.attempts(act)

    async def push_manifest(
        self, reference: Reference, content: bytes, media_type: str, logins: Sequence[Credential] = ()
    ) -> str:
        """Put the manifest under the reference's tag; its digest."""

        async def upload(progress: Progress) -> AsyncIterator[bytes]:
            progress.made()
            yield content

        path = f"manifests/{reference.selector}"
        call = Call(
            reference,
            logins,
            _PUSH,
            "PUT",
            path,
            capability="push",
            content_type=media_type,
            upload=upload,
            size_bytes=len(content),
            success=(201,),
        )

        async def act() -> None:
            async with self._open(call, what=f"image {reference}"):
                pass

        await self._transport.attempts(act)
        return digest_of(content)

    @contextlib.asynccontextmanager
    async def _open(self, call: Call, *, what: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer to a call: of the first mirror that has it, else of the registry."""
        async with contextlib.AsyncExitStack() as stack:
            yield await self._first(call, stack, what=what)

    async def _first(self, call: Call, stack: contextlib.AsyncExitStack, *, what: str) -> aiohttp.ClientResponse:
        *mirrors, server = await self._endpoints.of(call.reference.registry, call.capability)
        for mirror in mirrors:
            try:
                # A mirror gets none of the registry's logins: its own are headers or a certificate in hosts.toml.
                response = await stack.enter_async_context(self._logged_in(call, mirror, None, what=what))
                self._note(call, None)  # the mirror gives it to the node, and so to everybody here
                return response
            except WasmletError as error:
                _log.info("mirror passed over: %s", error.message)
                if isinstance(error, RetryableError):
                    self._endpoints.rest(mirror)
        refusal: UserError | None = None
        for login in call.logins or (None,):
            try:
                response = await stack.enter_async_context(self._logged_in(call, server, login, what=what))
                self._note(call, login)
                return response
            except (RefusedError, NotFoundError) as error:
                refusal = error  # Some registries say 404 for what a login may not see.
        raise refusal or login_refused(what, call.reference.registry, login=None)

    def _note(self, call: Call, login: Credential | None) -> None:
        if len(self._let_in) >= _MAX_NOTED:
            self._let_in.clear()
        self._let_in[call.reference.registry, call.reference.repository, tuple(call.logins)] = login

    @contextlib.asynccontextmanager
    async def _logged_in(
        self, call: Call, endpoint: Endpoint, login: Credential | None, *, what: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer with one login: as remembered or without a header first, then by the registry's challenge."""
        registry = endpoint.host if endpoint.mirrors else call.reference.registry
        scope = Scope(registry, call.reference.repository, call.actions)
        authorization = self._authenticator.remembered(scope, login)
        for challenged in (False, True):
            async with self._transport.exchange(call.request(endpoint, authorization)) as response:
                if response.status in call.success:
                    yield response
                    return
                other = elsewhere(response, endpoint)
                if other:
                    # Only the registry itself may ask for its logins, not whom it sends us to.
                    place = f"{other}, where {registry} sends,"
                    raise await failure_of(response, self._transport, what=what, registry=place, login=None)
                if response.status != 401 or challenged:
                    raise await failure_of(response, self._transport, what=what, registry=registry, login=login)
                challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            authorization = await self._authenticator.answer(challenges, scope, login, endpoint=endpoint, what=what)

    async def _pieces(self, response: aiohttp.ClientResponse, what: str) -> AsyncGenerator[list[bytes]]:
        """The body in pieces of about `WRITE_SIZE`, as long as it moves; each in the chunks in which it came."""
        loop = asyncio.get_running_loop()
        idle = self._settings.idle_timeout_seconds
        chunks, size = list[bytes](), 0
        since, moved = loop.time(), 0
        cut: aiohttp.ClientError | None = None
        try:
            async for chunk in response.content.iter_any():
                chunks.append(chunk)
                size += len(chunk)
                moved += len(chunk)
                if moved >= LEAST_PROGRESS_BYTES:
                    since, moved = loop.time(), 0
                elif loop.time() - since > idle:
                    raise RetryableError(f"{what} comes at less than {LEAST_PROGRESS_BYTES} bytes in {idle:g} s")
                if size >= WRITE_SIZE:
                    yield chunks
                    chunks, size = [], 0
        except aiohttp.ClientError as error:
            cut = error  # What came before it counts: the next attempt goes on there.
        if chunks:
            yield chunks
        if cut is not None:
            raise cut


def _continues(response: aiohttp.ClientResponse, count: int) -> bool:
    """Whether the answer begins after the bytes that are here; one that does not begins anew."""
    if response.status != 206:
        return False
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != count:
        raise PassingError(f"{response.url.host} sent another part than was asked for")
    return True
