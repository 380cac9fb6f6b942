"""Who may use an image that is on this node: whoever proved to its registry that he may (contract section 9). Pure.

The kubelet's EnsureSecretPulledImages. What was proved is kept with the image's entry in the store, so that image and
record come and go together: an entry without a record was not pulled by wasmlet (`load`, skopeo), it is preloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

import msgspec

from wasmlet.base.errors import UserError
from wasmlet.images.credentials import Credential, Origin
from wasmlet.images.reference import Reference, parse_remote

__all__ = ["Access", "Grant", "Verification", "VerificationPolicy"]

VerificationPolicy = Literal[
    "NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"
]
MAX_GRANTS: Final = 100
"""The kubelet's writeRecordWhileMatchingLimit; whoever is not kept proves it again."""


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """A login that the registry let in.

    Attributes:
        kind, namespace, name, uid: Of the Secret or ServiceAccount that gave it.
        hash: Of a Secret's login; a service account's come and go.
    """

    kind: Literal["Secret", "ServiceAccount"]
    namespace: str
    name: str
    uid: str
    hash: str = ""

    @property
    def origin(self) -> Origin:
        """The object that gave it."""
        return Origin(self.kind, self.namespace, self.name, self.uid)


class Access(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who may use an image that wasmlet pulled.

    Attributes:
        everyone: The registry gave it to anybody, or to the node itself.
    """

    everyone: bool = False
    grants: tuple[Grant, ...] = ()

    def proved(self, login: Credential | None) -> Access:
        """With a login that the registry let in now; None is nobody's."""
        if login is None or login.origin is None:
            return Access(everyone=True)
        return self.joined(Access(grants=(_grant(login, login.origin),)))

    def joined(self, other: Access) -> Access:
        """What both say; what `other` says wins, and its grants are kept when there are too many."""
        if self.everyone or other.everyone:
            return Access(everyone=True)
        grants = tuple(dict.fromkeys((*other.grants, *self.grants)))
        return Access(grants=grants[:MAX_GRANTS])

    def admitting(self, logins: Iterable[Credential]) -> Access | None:
        """What to keep when one of a pod's own logins may use the image; None: none of them may.

        A secret that changed is still the same secret, and a copy of it under another name says the same.
        """
        if self.everyone:
            return self
        for login in logins:
            if login.origin is not None and login.origin.kind == "Secret":
                grant = _grant(login, login.origin)
                if any(each.hash == grant.hash or each.origin == grant.origin for each in self.grants):
                    return self.joined(Access(grants=(grant,)))
        return None

    @property
    def knows_accounts(self) -> bool:
        """Whether a service account may use it."""
        return any(each.kind == "ServiceAccount" for each in self.grants)

    def admits_account(self, namespace: str, name: str, uid: str) -> bool:
        """Whether that service account may."""
        return any(each.origin == Origin("ServiceAccount", namespace, name, uid) for each in self.grants)


@dataclass(frozen=True, slots=True)
class Verification:
    """When a pod has to prove that it may use an image which is here.

    Attributes:
        policy: imagePullCredentialsVerificationPolicy. Default: for all images that wasmlet pulled.
        allowlist: preloadedImagesVerificationAllowlist, for that policy: names without tag, or prefixes that end in
            `/*`.
    """

    policy: VerificationPolicy = "NeverVerifyPreloadedImages"
    allowlist: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.policy not in get_args(VerificationPolicy):
            raise ValueError(f"images: no verification policy is called {self.policy!r}")
        for pattern in self.allowlist:
            _check_pattern(pattern)

    def is_needed(self, reference: Reference, access: Access | None) -> bool:
        """Whether the image must not be used without proof; None: nobody pulled it."""
        if self.policy == "NeverVerifyAllowlistedImages":
            return not any(_fits(pattern, reference) for pattern in self.allowlist)
        return self.policy == "AlwaysVerify" or (self.policy == "NeverVerifyPreloadedImages" and access is not None)


def _grant(login: Credential, origin: Origin) -> Grant:
    is_secret = origin.kind == "Secret"
    content = json.dumps([login.username, login.password, login.identity_token]).encode()
    digest = hashlib.sha256(content).hexdigest() if is_secret else ""
    return Grant(origin.kind, origin.namespace, origin.name, origin.uid, digest)


def _fits(pattern: str, reference: Reference) -> bool:
    if pattern.endswith("/*"):
        return reference.name.startswith(pattern.removesuffix("*"))
    return reference.name == parse_remote(pattern).name


def _check_pattern(pattern: str) -> None:
    """Raises ValueError for what the kubelet refuses too."""
    name = pattern.removesuffix("/*")
    try:
        parsed = parse_remote(name) if not pattern.endswith("/*") else None
    except UserError as error:
        raise ValueError(f"images: {pattern!r} in the allowlist is no image: {error.message}") from error
    tagged = parsed is not None and (":" in name.rpartition("/")[2] or "@" in name)
    if not name or "*" in name or name != name.strip() or tagged:
        raise ValueError(f"images: {pattern!r} in the allowlist must be a name without tag, or a prefix ending in /*")
