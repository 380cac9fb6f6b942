"""`wasmlet exec`: a further instance in a running container, on this terminal's streams.

The agent finds and compiles what is to run; the streams go straight to the engine.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from wasmlet import config
from wasmlet.base.errors import NotFoundError
from wasmlet.cli import complain
from wasmlet.cli.exits import NOT_FOUND, process_status
from wasmlet.cli.pods import pod_named
from wasmlet.cli.streams import ENDED, converse, default_container, is_terminal
from wasmlet.pods.accounts import ExecGrant, ExecRequest
from wasmlet.sandbox.exec_stream import ExecStream

COMMAND_NOT_FOUND = "CommandNotFound"


@click.command("exec")
@click.argument("pod")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-c", "--container", default=None, metavar="NAME", help="Of the pod's containers; the first by default.")
@click.option("-i", "--stdin", is_flag=True, help="Send standard input.")
@click.option("-t", "--tty", is_flag=True, help="With -i: the program has a terminal, which is this one.")
@click.pass_obj
def exec_command(
    state: str | None, pod: str, command: tuple[str, ...], container: str | None, stdin: bool, tty: bool
) -> int:
    """Run COMMAND in a running container of POD, and exit with its status: exec POD -- COMMAND ARGUMENTS.

    A path (with a slash, or ending in .wasm) is another module in the container's root or mounts. The container's own
    program answers to its file's and its container's name, and runs once more, beside the first.
    """
    if tty and not (stdin and is_terminal()):
        click.echo("Unable to use a TTY - input is not a terminal or the right kind of file", err=True)
        tty = False
    try:
        return asyncio.run(_exec(config.load(state=state), pod, container, list(command), stdin=stdin, tty=tty))
    except NotFoundError as error:
        if error.reason != COMMAND_NOT_FOUND:
            raise
        complain(error)
        return NOT_FOUND
    except asyncio.CancelledError:
        return ENDED


async def _exec(
    settings: config.Config, name: str, container: str | None, command: list[str], *, stdin: bool, tty: bool
) -> int:
    agent, account = await pod_named(settings, name)
    container = container or default_container(account.pod)
    request = ExecRequest(container=container, command=command, stdin=stdin, tty=tty)
    grant = await agent.call("POST", f"/pods/{account.pod.metadata.uid}/exec", ExecGrant, request)
    stream = await ExecStream.open(Path(grant.engine_socket), grant.sandbox, grant.spec)
    await converse(stream, stdin=stdin, raw=tty)
    return 0 if stream.exit is None else process_status(stream.exit.exit_code)
