"""Trust: before an image is used here, something that the node's policy names must vouch for it.

Asked with the digests of what will run: the one that the reference resolved to, and, where that is an index, the
manifest that was chosen from it. Nothing is resolved here again, so what is checked is what is used.

What was found is recorded by digest and voucher below the store, so that an image that is here needs no registry to
start again; the policy itself is read again as soon as one of its files changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.base.files import read_if_present, write_atomically
from wasmlet.images import keyless
from wasmlet.images.credentials import Credential
from wasmlet.images.ingest import translated
from wasmlet.images.keys import Key
from wasmlet.images.policy import REASON, Demand, Identity, Policy, Vouchers
from wasmlet.images.reference import LocalFile, Reference, is_digest
from wasmlet.images.signatures import NoVoucherError, check_payload, read_signature, verify_bundle
from wasmlet.images.threads import in_thread

if TYPE_CHECKING:
    from wasmlet.images.evidence import Evidence, Signed
    from wasmlet.images.registry import Registry

MAX_PAYLOADS: Final = 100  # fetched for one image; others fail before they are fetched, or are not looked at
MAX_RECORDS: Final = 10_000
_DIRECTORY: Final = "trust"


class Trust:
    """Who may vouch for images of this node, and who did.

    Args:
        directory: The store's.
        policy_file: The node's policy; None lets every image run.
        connected: The registry client, made when it is first needed.
    """

    def __init__(self, directory: Path, policy_file: Path | None, connected: Callable[[], Awaitable[Registry]]) -> None:
        self._policy_file = policy_file
        self._connected = connected
        self._records = _Records(directory / _DIRECTORY)
        self._policies: dict[Path, tuple[Policy, tuple[object, ...]]] = {}

    async def demands(self, reference: Reference | LocalFile, also: Path | None = None) -> tuple[Demand, ...]:
        """What has to be shown of an image before it is used; empty: nothing.

        Args:
            also: A further policy, which has to be satisfied beside the node's.

        Raises:
            UserError: The image may not run here whatever vouches for it, or a policy cannot be used.
        """
        files = [each for each in (self._policy_file, also) if each is not None]
        if not files:
            return ()
        try:
            found = [(await in_thread(self._policy, file)).demand(reference) for file in dict.fromkeys(files)]
        except UserError as error:
            raise _refusal(reference, error.message, hint=error.hint) from error
        for demand in found:
            if demand.allowance == "never":
                raise _refusal(reference, f"{demand} lets no such image run", hint=_hint(demand, reference))
        return tuple(demand for demand in found if demand.allowance != "always")

    async def check(
        self,
        reference: Reference | LocalFile,
        digests: Sequence[str],
        demands: Sequence[Demand],
        logins: Sequence[Credential] = (),
    ) -> None:
        """Make sure that the demands are met.

        Args:
            digests: Of what is used; vouching for one of them is enough, since the first leads to the others.

        Raises:
            UserError: Nothing vouches for the image (reason `SignatureValidationFailed`, as of the next one).
            RetryableError: That could not be found out.
        """
        digests = tuple(dict.fromkeys(digests))
        for demand in demands:
            vouchers = demand.allowance
            assert isinstance(vouchers, Vouchers)
            if not vouchers.digests.isdisjoint(digests) or await in_thread(self._records.has, digests, vouchers):
                continue
            if not vouchers.wants_signature:
                why = f"{demand} pins other digests than {digests[0]}"
                raise _refusal(reference, why, hint=_hint(demand, reference, digests[0]))
            if isinstance(reference, LocalFile):
                why = f"{demand} wants a signature, and files on this machine carry none"
                raise _refusal(reference, why, hint=f"add its digest to that rule: {digests[0]}")
            search = await self._searched(reference, digests, vouchers, logins)
            if search.found is None:
                why = f"{search.account()}, and {demand} wants one"
                raise _refusal(reference, why, hint=_hint(demand, reference, digests[0]))
            await in_thread(self._records.add, *search.found)

    def _policy(self, file: Path) -> Policy:
        """The policy as its files are now."""
        known = self._policies.get(file)
        if known is not None and _marks(known[0].files) == known[1]:
            return known[0]
        marks = _marks([file])
        found = _load(file)
        # A file that changed while it was read has other marks the next time.
        self._policies[file] = found, (*marks, *_marks(found.files)[1:])
        return found

    async def _searched(
        self, reference: Reference, digests: tuple[str, ...], vouchers: Vouchers, logins: Sequence[Credential]
    ) -> _Search:
        """A search that has come to its end, found something or not. Errors as `check`."""
        from wasmlet.images.evidence import Evidence  # noqa: PLC0415  # with the registry client comes aiohttp

        try:
            evidence = Evidence(await self._connected(), reference, logins)
            search = _Search(evidence, digests, vouchers)
            await search.run()
        except WasmletError as error:
            why = f"its signatures could not be checked: {error.message}"
            if isinstance(error, RetryableError):
                raise RetryableError(
                    _message(reference, why),
                    hint=error.hint,
                    reason=REASON,
                    retry_after_seconds=error.retry_after_seconds,
                ) from error
            raise _refusal(reference, why, hint=error.hint) from error
        return search


def check_file(file: Path) -> None:
    """Make sure that a policy can be used, before anything is asked of it.

    Raises:
        UserError: It cannot be read, says something that cannot be, or needs what is not installed.
    """
    _load(file)


def _load(file: Path) -> Policy:
    from wasmlet.images import policy_file  # noqa: PLC0415  # without a policy an agent starts without YAML

    found = policy_file.load(file)
    if found.wants_identities:
        keyless.check_available()
    return found


class _Search:
    """One look for a voucher among an image's signatures.

    Attributes:
        found: Which digest was vouched for, and by what; None: nothing counted, `account` says why.
    """

    def __init__(self, evidence: Evidence, digests: tuple[str, ...], vouchers: Vouchers) -> None:
        self._evidence = evidence
        self._digests = digests
        self._vouchers = vouchers
        self._faults: Counter[str] = Counter()
        self._payloads = 0
        self.found: tuple[str, str] | None = None

    async def run(self) -> None:
        """Look, until something counts."""
        for digest in self._digests:
            self.found = await self._among(await self._evidence.signed(digest))
            if self.found is not None:
                return
            async with contextlib.aclosing(self._evidence.referring(digest)) as proofs:
                async for proof in proofs:
                    self.found = await (self._in_bundle(proof) if isinstance(proof, bytes) else self._among([proof]))
                    if self.found is not None:
                        return

    def account(self) -> str:
        """What was found, for a message."""
        count = self._faults.total()
        noun = "signature" if count == 1 else "signatures"
        each = ", ".join(f"{number} {fault}" for fault, number in self._faults.most_common())
        text = f"it has {count} {noun} that {'does' if count == 1 else 'do'} not count: {each}" if count else ""
        if self._evidence.left_out:
            text += f"{'; ' if text else 'it has no readable signature; '}left out: {self._evidence.left_out[0]}"
        return text or "it is not signed"

    async def _among(self, proofs: Sequence[Signed]) -> tuple[str, str] | None:
        """The first signature that counts. A payload is fetched only when a key may have signed its digest."""
        for proof, keys, signature in await in_thread(self._screened, proofs):
            if self._payloads >= MAX_PAYLOADS:
                self._faults["beyond those that are looked at"] += 1
                continue
            self._payloads += 1
            content = await self._payload(proof)
            if content is None:
                self._faults["without its payload"] += 1
                continue
            try:
                key = await in_thread(_signer, keys, content, signature)
                return check_payload(content, self._digests), key.fingerprint
            except NoVoucherError as error:
                self._faults[str(error)] += 1
        return None

    def _screened(self, proofs: Sequence[Signed]) -> list[tuple[Signed, list[Key], bytes]]:
        found: list[tuple[Signed, list[Key], bytes]] = []
        for proof in proofs:
            try:
                signature = read_signature(proof.signature)
            except NoVoucherError as error:
                self._faults[str(error)] += 1
                continue
            digest = bytes.fromhex(proof.payload.digest.removeprefix("sha256:"))
            keys = [key for key in self._vouchers.keys if key.may_have_signed(digest, signature)]
            if keys:
                found.append((proof, keys, signature))
            else:
                self._faults["by another key" if self._vouchers.keys else "in a format that shows no identity"] += 1
        return found

    async def _payload(self, proof: Signed) -> bytes | None:
        from wasmlet.images.evidence import MAX_PAYLOAD_BYTES  # noqa: PLC0415

        return await self._evidence.content(proof.payload, MAX_PAYLOAD_BYTES)

    async def _in_bundle(self, content: bytes) -> tuple[str, str] | None:
        fault = "by another key"
        if self._vouchers.keys:
            try:
                digest, key = await in_thread(verify_bundle, content, self._digests, self._vouchers.keys)
            except NoVoucherError as error:
                fault = str(error)
            else:
                return digest, key.fingerprint
        if self._vouchers.identities:
            root = self._vouchers.trusted_root
            try:
                # It may fetch, and holds nothing: who is cancelled does not wait for it.
                digest, identity = await asyncio.to_thread(
                    keyless.verify, content, self._digests, self._vouchers.identities, trusted_root=root
                )
            except NoVoucherError as error:
                fault = str(error)
            else:
                return digest, _identity_voucher(identity)
        self._faults[fault] += 1
        return None


class _Records:
    """Who vouched for which digest: one file for each digest. Its methods block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def has(self, digests: Sequence[str], vouchers: Vouchers) -> bool:
        """Whether one of the vouchers is known to have vouched for one of the digests."""
        wanted = {*(key.fingerprint for key in vouchers.keys), *map(_identity_voucher, vouchers.identities)}
        return any(not wanted.isdisjoint(self._read(digest)) for digest in digests)

    def add(self, digest: str, voucher: str) -> None:
        """Remember it. Two writers at once may lose one line, which is then found out again."""
        with translated(self._directory.parent, "write to"):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._bound()
            vouchers = sorted({*self._read(digest), voucher})
            write_atomically(self._path(digest), msgspec.json.encode({"vouchers": vouchers}))

    def _read(self, digest: str) -> list[str]:
        with translated(self._directory.parent, "read"):
            content = read_if_present(self._path(digest))
        try:
            return [] if content is None else msgspec.json.decode(content, type=dict[str, list[str]])["vouchers"]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            return []  # damaged: it is found out again

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"not a digest: {digest!r}")
        return self._directory / f"{digest.removeprefix('sha256:')}.json"

    def _bound(self) -> None:
        """Forget the oldest tenth when there are too many: images come and go for years."""
        names = os.listdir(self._directory)
        if len(names) < MAX_RECORDS:
            return
        paths = [self._directory / name for name in names]
        for path in sorted(paths, key=lambda each: each.stat().st_mtime)[: MAX_RECORDS // 10]:
            path.unlink(missing_ok=True)


def _signer(keys: Sequence[Key], content: bytes, signature: bytes) -> Key:
    for key in keys:
        if key.has_signed(content, signature):
            return key
    raise NoVoucherError("by another key")


def _identity_voucher(identity: Identity) -> str:
    return f"identity:{identity.issuer} {identity.subject}"


def _marks(files: Sequence[Path]) -> tuple[object, ...]:
    """Equal marks mean equal contents: files are looked at, not read."""
    found: list[object] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


_PREFIX: Final = "image pull failed for "


def _message(reference: Reference | LocalFile, why: str) -> str:
    """In the kubelet's words (pkg/kubelet/images/image_manager.go, evalCRIPullErr)."""
    return f"{_PREFIX}{reference} because the signature validation failed: {why}"


def _refusal(reference: Reference | LocalFile, why: str, *, hint: str | None) -> UserError:
    return UserError(_message(reference, why), hint=hint, reason=REASON)


def _hint(demand: Demand, reference: Reference | LocalFile, digest: str | None = None) -> str:
    if digest is None or not isinstance(demand.allowance, Vouchers):
        return f"change that rule in {demand.policy}, or use another image"
    if not demand.allowance.wants_signature:
        return f"check which image this is, and then list {digest} in {demand.policy}"
    name = f"{reference.name}@{digest}" if isinstance(reference, Reference) else str(reference)
    how = "cosign sign --key KEY" if demand.allowance.keys else "cosign sign"
    return f"sign it ({how} {name}), or change that rule in {demand.policy}"
