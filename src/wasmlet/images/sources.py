"""Where logins come from that are asked for when an image is pulled, and not before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from wasmlet.images.credentials import Credential
from wasmlet.images.reference import Reference

__all__ = ["Account", "Source"]


class Account(Protocol):
    """The service account of the pod that wants an image.

    Attributes:
        namespace, name: Of the account.
    """

    @property
    def namespace(self) -> str:
        """The pod's."""

    @property
    def name(self) -> str:
        """The account's."""

    async def look(self) -> tuple[str, Mapping[str, str]]:
        """Its UID and annotations.

        Raises:
            WasmletError: The cluster does not say.
        """

    async def token(self, audience: str) -> str:
        """A token for the audience, bound to the pod.

        Raises:
            WasmletError: The cluster gives none.
        """


class Source(Protocol):
    """Asked for the logins of an image; it raises nothing and tells its troubles in the log, as a kubelet does."""

    async def logins(self, reference: Reference, account: Account | None, /) -> tuple[Credential, ...]:
        """What fits the image.

        Args:
            account: None for pods without one, and for commands.
        """
