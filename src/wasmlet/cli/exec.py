"""`wasmlet exec`: a further instance in a running container, on this terminal's streams.

The agent finds and compiles what is to run; the streams go straight to the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
import tty as terminals
from collections.abc import Iterator
from pathlib import Path

import click

from wasmlet import config
from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.cli import complain
from wasmlet.cli.exits import NOT_FOUND, process_status
from wasmlet.cli.pods import pod_named
from wasmlet.kube.types import Pod
from wasmlet.pods.accounts import ExecGrant, ExecRequest
from wasmlet.sandbox.exec_stream import Channel, ExecStream

READ_BYTES = 64 * 1024
ENDED = 128 + signal.SIGTERM
COMMAND_NOT_FOUND = "CommandNotFound"


@click.command("exec")
@click.argument("pod")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-c", "--container", default=None, metavar="NAME", help="Of the pod's containers; the first by default.")
@click.option("-i", "--stdin", is_flag=True, help="Send standard input.")
@click.option("-t", "--tty", is_flag=True, help="With -i: pass each key on as it is typed (there is no pty).")
@click.pass_obj
def exec_command(
    state: str | None, pod: str, command: tuple[str, ...], container: str | None, stdin: bool, tty: bool
) -> int:
    """Run COMMAND in a running container of POD, and exit with its status: exec POD -- COMMAND ARGUMENTS.

    A path (with a slash, or ending in .wasm) is another module in the container's root or mounts. Every other name is
    the argv[0] of the container's own module, which runs once more, beside the first.
    """
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
    request = ExecRequest(container=container or _default(account.pod), command=command, stdin=stdin)
    grant = await agent.call("POST", f"/pods/{account.pod.metadata.uid}/exec", ExecGrant, request)
    stream = await ExecStream.open(Path(grant.engine_socket), grant.sandbox, grant.spec)
    try:
        with _raw_terminal(stream) if tty and stdin else contextlib.nullcontext():
            if stdin:
                _send_stdin(stream)
            async for channel, content in stream.output():
                await asyncio.to_thread(_write, 2 if channel is Channel.STDERR else 1, content)
    finally:
        await stream.close()
    return 0 if stream.exit is None else process_status(stream.exit.exit_code)


def _default(pod: Pod) -> str:
    names = [each.name for each in pod.spec.containers]
    if len(names) > 1:
        click.echo(f'Defaulted container "{names[0]}" out of: {", ".join(names)}', err=True)
    return names[0]


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _send_stdin(stream: ExecStream) -> None:
    """In a thread, since standard input may be a file or a device that no event loop can wait for; a daemon, since a
    read that waits for a person must not keep the process from its end."""  # noqa: D209
    loop = asyncio.get_running_loop()

    def send() -> None:
        with contextlib.suppress(OSError, RuntimeError, WasmletError):  # the loop, or this process, ends
            while content := os.read(sys.stdin.fileno(), READ_BYTES):
                asyncio.run_coroutine_threadsafe(stream.write(content), loop).result()
            asyncio.run_coroutine_threadsafe(stream.close_stdin(), loop).result()

    threading.Thread(target=send, name="stdin", daemon=True).start()


@contextlib.contextmanager
def _raw_terminal(stream: ExecStream) -> Iterator[None]:
    """Keys go to the guest one by one, its size is told; lines that the guest ends begin at the left all the same."""
    descriptor = sys.stdin.fileno()
    if not os.isatty(descriptor):
        click.echo("wasmlet: no raw terminal, since standard input is none", err=True)
        yield
        return
    loop, before = asyncio.get_running_loop(), termios.tcgetattr(descriptor)
    task = asyncio.current_task()
    sending = set[asyncio.Task[None]]()

    def resize() -> None:
        size = os.get_terminal_size(descriptor)
        told = loop.create_task(stream.resize(size.columns, size.lines), name="resize")
        sending.add(told)
        told.add_done_callback(sending.discard)

    terminals.setraw(descriptor)
    raw = termios.tcgetattr(descriptor)
    raw[1] |= termios.OPOST | termios.ONLCR
    termios.tcsetattr(descriptor, termios.TCSADRAIN, raw)
    loop.add_signal_handler(signal.SIGWINCH, resize)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel if task is not None else loop.stop)
    resize()
    try:
        yield
    finally:
        for number in (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
