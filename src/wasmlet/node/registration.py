"""Making the Node object, and making one that is there already agree with the settings (kubelet-contract 1.1)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, Final

from wasmlet.base.errors import ConflictError, NotFoundError, UserError, WasmletError
from wasmlet.kube.client import Client, Patch
from wasmlet.kube.credentials import UNUSABLE_CREDENTIALS
from wasmlet.kube.errors import AlreadyExistsError, ForbiddenError, InvalidError, OutdatedError
from wasmlet.kube.pace import BackOff
from wasmlet.kube.types import ObjectMeta
from wasmlet.node.objects import NODES, NodeObject, NodeSpec, NodeStatus, Taint
from wasmlet.node.settings import ARCHITECTURE_KEY, OS_KEY, Settings

__all__ = ["initial_node", "managed_labels", "reconciliation", "register", "taint_command"]

logger = logging.getLogger(__name__)

ATTACH_ANNOTATION: Final = "volumes.kubernetes.io/controller-managed-attach-detach"
TAINTS_ANNOTATION: Final = "wasmlet.dev/registered-taints"
"""Which taints this agent asked for last: what an administrator adds or removes by hand is left alone."""

FIRST_RETRY_SECONDS: Final = 0.1
MAX_RETRY_SECONDS: Final = 7.0


def managed_labels(settings: Settings) -> dict[str, str]:
    """The labels that are asserted again and again, as the kubelet does with them."""
    return {
        "kubernetes.io/hostname": settings.name,
        OS_KEY: settings.os_label,
        f"beta.{OS_KEY}": settings.os_label,
        ARCHITECTURE_KEY: settings.architecture_label,
        f"beta.{ARCHITECTURE_KEY}": settings.architecture_label,
    }


def _annotations(settings: Settings) -> dict[str, str]:
    return {
        **settings.annotations,
        ATTACH_ANNOTATION: "true",
        TAINTS_ANNOTATION: _written(settings.taints),
    }


def _written(taints: Sequence[Taint]) -> str:
    return ",".join(sorted(map(str, taints)))


def initial_node(settings: Settings, status: NodeStatus, former: NodeObject | None = None) -> NodeObject:
    """The Node to create.

    Args:
        former: The one that was deleted while this agent ran. Its podCIDRs are asked for again, so that pods keep
            their addresses; the allocator gives a range that was released to somebody else last of all.
    """
    return NodeObject(
        metadata=ObjectMeta(
            name=settings.name,
            labels={**settings.labels, **managed_labels(settings)},
            annotations=_annotations(settings),
        ),
        spec=NodeSpec(
            pod_cidr=former.spec.pod_cidr if former is not None else "",
            pod_cidrs=list(former.spec.pod_cidrs) if former is not None else [],
            provider_id=settings.provider_id,
            taints=list(settings.taints),
            unschedulable=not settings.is_schedulable,
        ),
        status=status,
    )


def reconciliation(existing: NodeObject, settings: Settings) -> dict[str, Any]:
    """A merge patch that makes an existing Node agree with the settings; empty: it does.

    Raises:
        ConflictError: Another agent, a real kubelet say, serves it.
        UserError: The settings ask for what a node cannot change: taints, or another provider id.
    """
    runtime = existing.status.node_info.container_runtime_version
    if runtime and not runtime.startswith("wasmlet://"):
        raise ConflictError(
            f"the Node {settings.name} is another agent's (its runtime is {runtime})",
            hint="give this one a name of its own with --node-name, or delete that Node first",
        )
    _check_taints(existing, settings)
    patch: dict[str, Any] = {}
    metadata = {
        "labels": _differences(existing.metadata.labels, {**settings.labels, **managed_labels(settings)}),
        "annotations": _differences(existing.metadata.annotations, _annotations(settings)),
    }
    if metadata := {name: values for name, values in metadata.items() if values}:
        patch["metadata"] = metadata
    if settings.provider_id and settings.provider_id != existing.spec.provider_id:
        if existing.spec.provider_id:
            raise UserError(
                f"the Node {settings.name} has the provider id {existing.spec.provider_id!r}, which cannot change "
                f"to {settings.provider_id!r}",
                hint=f"to have it made anew: kubectl delete node {settings.name}",
            )
        patch["spec"] = {"providerID": settings.provider_id}
    return patch


def _differences(present: dict[str, str], wanted: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in wanted.items() if present.get(key) != value}


def _check_taints(existing: NodeObject, settings: Settings) -> None:
    """Raise UserError when the settings were changed since the Node was registered, and nobody changed the Node."""
    before = existing.metadata.annotations.get(TAINTS_ANNOTATION)
    if before == _written(settings.taints):
        return
    present = {str(each) for each in existing.spec.taints}
    registered = before.split(",") if before else []
    added = [each for each in settings.taints if str(each) not in present]
    removed = [each for each in registered if each in present and each not in set(map(str, settings.taints))]
    if added or removed:
        raise UserError(
            f"the taints of Node {settings.name} are other ones than in the settings, and a node cannot change its own",
            hint=f"an administrator can: {taint_command(settings.name, added=added, removed=removed)}",
            reason="TaintsDiffer",
        )


def taint_command(name: str, *, added: Sequence[Taint], removed: Sequence[str]) -> str:
    """What to type; a taint that gets another value is overwritten, not removed."""
    replaced = {(each.key, each.effect) for each in added}
    gone = []
    for text in removed:
        rest, _, effect = text.rpartition(":")
        key = rest.partition("=")[0]
        if (key, effect) not in replaced:
            gone.append(f"{key}:{effect}-")
    parts = ["kubectl taint nodes", name, *map(str, added), *gone]
    return " ".join([*parts, "--overwrite"] if added else parts)


async def register(
    client: Client, settings: Settings, status: NodeStatus, *, former: NodeObject | None = None
) -> tuple[NodeObject, bool]:
    """Create the Node, or make the one there is agree with the settings: the Node, and whether it is new.

    Tries until it is done.

    Args:
        former: See `initial_node`.

    Raises:
        ConflictError: The Node is another agent's.
        UserError: The settings ask for what a node cannot change, or the API server finds them wrong.
    """
    back_off = BackOff(first_seconds=FIRST_RETRY_SECONDS, max_seconds=MAX_RETRY_SECONDS, jitter=0.0)
    while True:
        try:
            return await _attempt(client, settings, initial_node(settings, status, former))
        except InvalidError as error:
            raise UserError(error.message, hint="check the node's settings", reason=error.reason) from error
        except WasmletError as error:
            if isinstance(error, UserError) and not _may_pass(error):
                raise
            delay = back_off.next()
            # A credential for another node's name looks like this: said, not given up, since rights may come later.
            extra = {"node": settings.name, "retry_seconds": delay}
            logger.log(client.level(logging.WARNING), "registration failed: %s", error, extra=extra)
        await asyncio.sleep(delay * random.uniform(1.0, 1.1))  # noqa: S311  # spreads the nodes of a cluster


def _may_pass(error: UserError) -> bool:
    """Whether it is the cluster's state and not the settings: a Node that comes and goes, an authority in rotation."""
    races = (AlreadyExistsError, NotFoundError, OutdatedError)
    return isinstance(error, races) or error.reason == UNUSABLE_CREDENTIALS


async def _attempt(client: Client, settings: Settings, new: NodeObject) -> tuple[NodeObject, bool]:
    try:
        node = await client.create(NODES, new)
    except (AlreadyExistsError, ForbiddenError) as error:
        try:
            existing = await client.get(NODES, settings.name)
        except NotFoundError:
            raise error from None  # it may not be created, or is gone again
    else:
        logger.info("node registered", extra={"node": settings.name, "uid": node.metadata.uid})
        return node, True
    patch = reconciliation(existing, settings)
    if not patch:
        return existing, False
    logger.info("node updated", extra={"node": settings.name, "fields": sorted(patch)})
    return await patch_node(client, settings.name, patch), False


async def patch_node(client: Client, name: str, patch: dict[str, Any]) -> NodeObject:
    """Merge `patch` into the own Node's metadata or spec."""
    return await client.patch(NODES, name, patch, kind=Patch.MERGE)
