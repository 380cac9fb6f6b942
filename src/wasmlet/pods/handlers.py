"""RuntimeClass handlers: how a pod's sandboxes are kept (design section 1, kubelet-contract section 11)."""

from __future__ import annotations

from typing import Final

from wasmlet.base.errors import UserError
from wasmlet.kube.types import Pod

__all__ = ["HANDLERS", "ISOLATED", "SANDBOX_REASON", "WASMLET", "check", "of_manifest"]

WASMLET: Final = "wasmlet"
ISOLATED: Final = "wasmlet-isolated"
"""An engine of the pod's own: no other pod shares its process."""

HANDLERS: Final = ("", WASMLET, ISOLATED)
"""What this node runs; the empty name is the default one, and means `wasmlet`."""

SANDBOX_REASON: Final = "FailedCreatePodSandBox"


def check(handler: str) -> str:
    """The handler itself.

    Raises:
        UserError: It is none of this node's; reason FailedCreatePodSandBox.
    """
    if handler not in HANDLERS:
        raise UserError(
            f'Failed to create pod sandbox: no runtime for "{handler}" is configured',
            hint=f"this node's handlers are {WASMLET} and {ISOLATED}",
            reason=SANDBOX_REASON,
        )
    return handler


async def of_manifest(pod: Pod) -> str:
    """Without a cluster there are no RuntimeClasses: a class of a handler's name means it, any other means nothing."""
    name = pod.spec.runtime_class_name or ""
    return name if name in HANDLERS else ""
