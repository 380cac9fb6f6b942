"""Arguments → Config → exit status. One command a file; a command's imports are its own, so that `--help` is fast.

- `connect`  the agent of a state directory: found, or started
- `run`      `wasmlet run`; `follow` shows a pod as a pipe; `bundles` makes pods of what was named
- `pods`     ps, logs, stop, rm, inspect
- `exec`     a command in a running container
- `images`   push, pull, images, rmi, prune, save, load
- `node`     the agent itself; `log` is how its log and commands' warnings look
- `exits`    which exit status stands for what
"""

from __future__ import annotations

import errno
import importlib
import signal
import sys
from typing import Any

import click

from wasmlet import __version__
from wasmlet.base.errors import WasmletError
from wasmlet.cli.exits import FAILED, INTERRUPTED, exit_status
from wasmlet.cli.output import BROKEN_PIPE_STATUS, abandon_stdout, open_standard_streams

OF_STREAMS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of writing, which may have left nothing in a buffer."""

COMMANDS = {
    "run": "run",
    "ps": "pods",
    "logs": "pods",
    "stop": "pods",
    "rm": "pods",
    "exec": "exec",
    "attach": "attach",
    "engines": "engines",
    "inspect": "pods",
    "images": "images",
    "pull": "images",
    "push": "images",
    "rmi": "images",
    "prune": "images",
    "save": "images",
    "load": "images",
    "node": "node",
    "join": "node",
    "leave": "leave",
    "completion": "completion",
}
"""Command → the module of this package that defines it."""


class _Lazy(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"wasmlet.cli.{COMMANDS[cmd_name]}")
        from wasmlet.cli import log

        log.show_warnings()
        command: click.Command = getattr(module, f"{cmd_name}_command")
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # from here on there is something to put in order
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; here, since click makes 1 of a broken pipe further out."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            abandon_stdout()
            return BROKEN_PIPE_STATUS

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


SUMMARIES = {
    "run": "Run pods from a manifest, a .wasm file, or an image",
    "ps": "List pods",
    "logs": "Print what a container wrote",
    "stop": "End pods, and keep their logs",
    "rm": "Remove pods",
    "exec": "Run a command in a running container",
    "attach": "Connect to the streams of a running container",
    "engines": "List engines, and move pods out of those of another release",
    "inspect": "Show all there is to say about a pod or a .wasm file",
    "images": "List the images in the local store",
    "pull": "Fetch an image from its registry",
    "push": "Send a .wasm file to a registry as an image",
    "rmi": "Remove images from the local store",
    "prune": "Remove what no image needs, or what no pod uses, from the local store",
    "save": "Write images as one OCI archive",
    "load": "Take the images of an OCI archive into the local store",
    "node": "Serve a state directory in the foreground, alone or as a node of a cluster",
    "join": "Ask a cluster for an identity of this machine as a node",
    "leave": "Remove that identity, and the pods' network",
    "completion": "Print the completion script for a shell",
}
"""The help texts of the commands; here, so that `wasmlet --help` imports none of them."""


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wasmlet")
@click.option("--state", metavar="DIRECTORY", help="Where pods, images and engines are kept [env: WASMLET_STATE].")
@click.pass_context
def wasmlet(context: click.Context, state: str | None) -> None:
    """The WebAssembly kubelet: runs the containers of Kubernetes pods as WebAssembly sandboxes.

    \b
    wasmlet run pod.yaml                  the pods of a manifest ("-" is standard input)
    wasmlet run app.wasm -- args          one module
    wasmlet run REGISTRY/IMAGE -- args    one image
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    context.obj = state


def main() -> int:
    """Run the command line; returns the exit status."""
    open_standard_streams()
    try:
        result = wasmlet.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        _clearer(error).show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except OSError as error:
        complain(WasmletError(_explained(error)))
        return FAILED
    except WasmletError as error:
        complain(error)
        return exit_status(error)


def _clearer(error: click.ClickException) -> click.ClickException:
    """An option that is written in the wrong place is no unknown one."""
    if isinstance(error, click.NoSuchOption) and error.option_name == "--state":
        return click.UsageError("--state comes before the command: wasmlet --state DIRECTORY COMMAND", ctx=error.ctx)
    return error


def _explained(error: OSError) -> str:
    """What the machine refused: something about a file, or to take the output (such an error names no file)."""
    why = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {why}"
    try:
        sys.stdout.flush()
    except OSError:
        abandon_stdout()
    else:
        if error.errno not in OF_STREAMS:
            return why
    return f"cannot write to standard output: {why}"


def complain(error: WasmletError) -> None:
    """Say on stderr what is wrong; the hint is a line of its own."""
    click.echo(f"wasmlet: {error.message}", err=True)
    if error.hint is not None:
        click.echo(f"  hint: {error.hint}", err=True)
