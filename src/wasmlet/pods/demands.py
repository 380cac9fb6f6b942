"""What a container asks of its sandbox that must be refused rather than passed over (kubelet-contract 4.4, 6.4). Pure.

What only means something to a Linux kernel (privileged, capabilities, seccomp, host namespaces) is passed over: a Wasm
sandbox has less than any of them takes away, and cannot be given what they add.
"""

from __future__ import annotations

from wasmlet.base.errors import UserError
from wasmlet.kube.types import Container, Pod, VolumeMount

__all__ = ["check", "is_recursively_read_only"]

REASON = "CreateContainerConfigError"


def check(pod: Pod, container: Container) -> None:
    """Raise UserError, reason CreateContainerConfigError, with the kubelet's text for the first wrong demand.

    runAsNonRoot alone is kept by every guest, which has no user; with `runAsUser: 0` it contradicts itself.
    """
    own, of_pod = container.security_context, pod.spec.security_context
    contexts = [each for each in (own, of_pod) if each is not None]
    non_root = next((each.run_as_non_root for each in contexts if each.run_as_non_root is not None), False)
    user = next((each.run_as_user for each in contexts if each.run_as_user is not None), None)
    if non_root and user == 0:
        meta = pod.metadata
        where = f'pod: "{meta.name}_{meta.namespace}({meta.uid})", container: {container.name}'
        raise UserError(f"container's runAsUser breaks non-root policy ({where})", reason=REASON)
    for mount in container.volume_mounts:
        _check_recursion(mount)


def is_recursively_read_only(mount: VolumeMount) -> bool:
    """Whether the mount's status says `recursiveReadOnly: Enabled`: asked for, and every read-only one is so here."""
    return mount.read_only and mount.recursive_read_only in ("Enabled", "IfPossible")


def _check_recursion(mount: VolumeMount) -> None:
    if mount.recursive_read_only in (None, "", "Disabled"):
        return
    about = f'volume "{mount.name}" requested recursive read-only mode, but it is not'
    if not mount.read_only:
        raise UserError(f"{about} read-only", reason=REASON)
    if mount.mount_propagation not in (None, "", "None"):
        raise UserError(f'{about} compatible with propagation "{mount.mount_propagation}"', reason=REASON)
