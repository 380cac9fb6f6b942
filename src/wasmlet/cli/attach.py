"""`wasmlet attach`: this terminal's streams on a running container's own, as `kubectl attach`.

The agent says where the container is; the streams go straight to the engine. Whatever becomes of this process, the
container goes on.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from wasmlet import config
from wasmlet.cli.exits import INTERRUPTED, process_status
from wasmlet.cli.pods import pod_named
from wasmlet.cli.streams import ENDED, converse, default_container, is_terminal
from wasmlet.pods.accounts import AttachGrant, AttachRequest
from wasmlet.sandbox.exec_stream import DismissedError, ExecStream
from wasmlet.sandbox.protocol import AttachSpec


@click.command("attach")
@click.argument("pod")
@click.option("-c", "--container", default=None, metavar="NAME", help="Of the pod's containers; the first by default.")
@click.option("-i", "--stdin", is_flag=True, help="Send standard input to the container's.")
@click.option("-t", "--tty", is_flag=True, help="With -i: be the terminal of a container that has one (tty: true).")
@click.pass_obj
def attach_command(state: str | None, pod: str, container: str | None, stdin: bool, tty: bool) -> int:
    """Show what a running container of POD writes from now on, until it ends; exit with its status.

    Ctrl-C ends the attach and never the container.
    """
    try:
        return asyncio.run(_attach(config.load(state=state), pod, container, stdin=stdin, tty=tty))
    except DismissedError as error:
        if error.reason != "Interrupted":
            raise
        return INTERRUPTED
    except asyncio.CancelledError:
        return ENDED


async def _attach(settings: config.Config, name: str, container: str | None, *, stdin: bool, tty: bool) -> int:
    agent, account = await pod_named(settings, name)
    container = container or default_container(account.pod)
    request = AttachRequest(container=container, stdin=stdin)
    grant = await agent.call("POST", f"/pods/{account.pod.metadata.uid}/attach", AttachGrant, request)
    if tty and not grant.tty:
        click.echo(f"Unable to use a TTY - container {container} did not allocate one", err=True)
    elif tty and not (stdin and is_terminal()):
        click.echo("Unable to use a TTY - input is not a terminal or the right kind of file", err=True)
    raw = grant.tty and stdin and is_terminal()  # also without -t: its lines come as a raw terminal wants them
    stream = await ExecStream.attach(Path(grant.engine_socket), grant.sandbox, AttachSpec(stdin=stdin))
    if raw:
        click.echo("If you don't see a command prompt, try pressing enter.", err=True)
    await converse(stream, stdin=stdin, raw=raw)
    return 0 if stream.exit is None else process_status(stream.exit.exit_code)
