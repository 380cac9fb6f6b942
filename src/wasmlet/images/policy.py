"""The policy: which images may run here, and what has to vouch for them. Pure; `policy_file` reads one.

`default` and `allow` are `always`, `never`, or what has to vouch for an image: any one of the things listed suffices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from wasmlet.images.keys import Key
from wasmlet.images.patterns import Pattern
from wasmlet.images.reference import LocalFile, Reference

REASON: Final = "SignatureValidationFailed"
"""Kubernetes' reason for an image that its node's policy does not let run (kubelet contract 4.4)."""

DEFAULT_RULE: Final = "default"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signed without a key: a certificate's subject, and who vouched for it (the OpenID Connect issuer)."""

    issuer: str
    subject: str

    def __str__(self) -> str:
        return f"{self.subject} ({self.issuer})"


@dataclass(frozen=True, slots=True)
class Vouchers:
    """What may vouch for an image; one of them has to.

    Attributes:
        keys: One of these signed it.
        identities: One of these signed it, by a certificate of sigstore.
        digests: It has one of these.
        trusted_root: What vouches for identities: a file of sigstore's TrustedRoot; None is the public instance's.
    """

    keys: tuple[Key, ...] = ()
    identities: tuple[Identity, ...] = ()
    digests: frozenset[str] = frozenset()
    trusted_root: Path | None = None

    @property
    def wants_signature(self) -> bool:
        """Whether a signature would do."""
        return bool(self.keys or self.identities)


Allowance = Literal["always", "never"] | Vouchers


@dataclass(frozen=True, slots=True)
class Demand:
    """What a policy demands of one image.

    Attributes:
        rule: The pattern that decided, or `default`.
        policy: The policy's file.
    """

    rule: str
    allowance: Allowance
    policy: Path

    def __str__(self) -> str:
        return f"rule {self.rule} of the image policy {self.policy}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One pattern, and what it lets run."""

    pattern: Pattern
    allowance: Allowance


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file's content.

    Attributes:
        files: The policy's and its keys' files: when one of them changes, the policy has to be read again.
    """

    path: Path
    default: Allowance
    rules: tuple[Rule, ...]
    files: tuple[Path, ...]

    @property
    def wants_identities(self) -> bool:
        """Whether signatures without keys have to be checked."""
        allowances = [self.default, *(rule.allowance for rule in self.rules)]
        return any(isinstance(each, Vouchers) and each.identities for each in allowances)

    def demand(self, reference: Reference | LocalFile) -> Demand:
        """What is demanded of the image: by its most specific rule (`Pattern.rank`; equal ones: the first)."""
        fitting = [rule for rule in self.rules if rule.pattern.fits(reference)]
        if not fitting:
            return Demand(DEFAULT_RULE, self.default, self.path)
        best = max(fitting, key=lambda rule: rule.pattern.rank)
        return Demand(best.pattern.text, best.allowance, self.path)
