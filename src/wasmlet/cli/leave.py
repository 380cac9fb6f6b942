"""`wasmlet leave`: the end of a machine's time as a node."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import click

from wasmlet import agent, config
from wasmlet.base import beneath
from wasmlet.base.errors import ConflictError, WasmletError
from wasmlet.cli.log import log_handler


@click.command("leave")
@click.option("--force", is_flag=True, help="End the cluster's pods that are on this machine, too.")
@click.pass_obj
def leave_command(state: str | None, force: bool) -> None:
    """Undo what `wasmlet join` and `wasmlet node` made on this machine: the pods' network and the identity.

    The agent has to be stopped, and the cluster's pods gone, before. The Node object is for administrators to delete.
    """
    logging.basicConfig(level="ERROR", handlers=[log_handler()])  # what goes is what was asked for
    settings = config.load(state=state)
    identity = settings.state / config.KUBECONFIG_NAME
    node = _node_of(identity)
    try:
        removed = asyncio.run(agent.leave(settings, force=force))
    except agent.StateHeldError as error:
        hint = f"end it first: systemctl stop wasmlet, or kill {error.holder}"
        raise ConflictError(error.message, hint=hint) from None
    was_joined = identity.exists()
    identity.unlink(missing_ok=True)
    beneath.remove_tree(settings.state / "pki")
    click.echo("the pods' network is gone" if removed else "there was no pod network")
    if was_joined:
        click.echo(f"the identity of node {node} is gone" if node else "the identity is gone")
        click.echo(f"delete the Node, if its cluster has it still: kubectl delete node {node or 'NAME'}")
    else:
        click.echo("there was no identity")


def _node_of(identity: Path) -> str | None:
    """The node that an identity is for; None when there is none, or none that can be read."""
    from wasmlet.kube import kubeconfig  # no other command pays for these
    from wasmlet.node import bootstrap

    try:
        return bootstrap.node_of(kubeconfig.load(identity))
    except WasmletError:
        return None
