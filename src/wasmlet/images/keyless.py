"""Signatures without keys: sigstore's certificates, its log and its clocks, as the library `sigstore` checks them.

That library is the extra `wasmlet[sigstore]` and is imported when a policy first asks for an identity. What sigstore
trusts comes from its own distribution (TUF, fetched and kept by that library), or from a file that the policy names.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.policy import REASON, Identity
from wasmlet.images.signatures import NoVoucherError, check_statement, is_envelope

if TYPE_CHECKING:
    from sigstore.models import Bundle
    from sigstore.verify import Verifier
    from sigstore.verify.policy import VerificationPolicy

REFRESH_SECONDS: Final = 24 * 3600.0  # how long one fetched root serves a running agent


def check_available() -> None:
    """Make sure that identities can be checked.

    Raises:
        UserError: The extra is not installed.
    """
    if importlib.util.find_spec("sigstore") is None:
        raise UserError(
            "the policy names identities of sigstore, and the library that checks them is not installed",
            hint="pip install 'wasmlet[sigstore]' where wasmlet is installed, or demand a key",
            reason=REASON,
        )


def verify(
    content: bytes, digests: Sequence[str], identities: Sequence[Identity], *, trusted_root: Path | None
) -> tuple[str, Identity]:
    """Which of `digests` a bundle vouches for, and in whose name. It may fetch, and takes long: call it in a thread.

    Args:
        trusted_root: A file of sigstore's TrustedRoot; None takes the one of the public instance.

    Raises:
        NoVoucherError: For none of them, or in another name.
        UserError: The extra is missing, or the trusted root cannot be used.
        RetryableError: What sigstore trusts could not be fetched.
    """
    has_envelope = is_envelope(content)
    check_available()
    from sigstore.models import Bundle  # noqa: PLC0415
    from sigstore.verify.policy import Identity as Name  # noqa: PLC0415

    try:
        bundle = Bundle.from_json(content)
    except Exception as error:  # on garbage that library raises many things
        raise NoVoucherError("that sigstore cannot read") from error
    verifier = _verifier_of(trusted_root)
    for identity in identities:
        name = Name(identity=identity.subject, issuer=identity.issuer)
        try:
            check = _check_envelope if has_envelope else _check_message
            return check(verifier, bundle, name, digests), identity
        except NoVoucherError:
            raise
        except Exception:  # noqa: S112  # whatever it is, this identity has not been shown
            continue
    raise NoVoucherError("that sigstore does not confirm for the policy's identities")


def _check_envelope(verifier: Verifier, bundle: Bundle, name: VerificationPolicy, digests: Sequence[str]) -> str:
    kind, payload = verifier.verify_dsse(bundle, name)
    return check_statement(payload, kind, digests)


def _check_message(verifier: Verifier, bundle: Bundle, name: VerificationPolicy, digests: Sequence[str]) -> str:
    from sigstore.errors import VerificationError  # noqa: PLC0415
    from sigstore.hashes import Hashed  # noqa: PLC0415
    from sigstore_models.common.v1 import HashAlgorithm  # noqa: PLC0415

    failure: VerificationError | None = None
    for digest in digests:
        hashed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=bytes.fromhex(digest.removeprefix("sha256:")))
        try:
            verifier.verify_artifact(hashed, bundle, name)
        except VerificationError as error:
            failure = error
            continue
        return digest
    assert failure is not None
    raise failure


def _verifier_of(trusted_root: Path | None) -> Verifier:
    if trusted_root is None:
        return _public_verifier(int(time.monotonic() // REFRESH_SECONDS))
    from sigstore.models import TrustedRoot  # noqa: PLC0415
    from sigstore.verify import Verifier  # noqa: PLC0415

    try:
        return Verifier(trusted_root=TrustedRoot.from_file(str(trusted_root)))
    except Exception as error:
        raise UserError(f"sigstore cannot use the trusted root {trusted_root}", reason=REASON) from error


@lru_cache(maxsize=1)
def _public_verifier(_period: int) -> Verifier:
    from sigstore.verify import Verifier  # noqa: PLC0415

    try:
        return Verifier.production()
    except Exception as error:
        raise RetryableError(
            "what the public sigstore trusts could not be fetched",
            hint="let this machine reach it, or give the policy a trustedRoot file",
            reason=REASON,
        ) from error
