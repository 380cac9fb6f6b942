"""This terminal's streams on those of a guest: what exec and attach have in common."""

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

import click

from wasmlet.base.errors import WasmletError
from wasmlet.kube.types import Pod
from wasmlet.sandbox.exec_stream import Channel, ExecStream

READ_BYTES = 64 * 1024
ENDED = 128 + signal.SIGTERM
"""The exit status of a command whose raw terminal was taken away (SIGTERM, SIGHUP)."""


async def converse(stream: ExecStream, *, stdin: bool, raw: bool) -> None:
    """Connect the streams until the guest's end, and close `stream`.

    Args:
        raw: Keys go to the guest's terminal one by one; this one is what it was before at every end.

    Raises:
        WasmletError: As `ExecStream.output`.
        CancelledError: A signal took a raw terminal away.
    """
    try:
        with _raw_terminal(stream) if raw else contextlib.nullcontext():
            if stdin:
                _send_stdin(stream)
            async for channel, content in stream.output():
                await asyncio.to_thread(_write, 2 if channel is Channel.STDERR else 1, content)
    finally:
        await stream.close()


def default_container(pod: Pod) -> str:
    """The first, and a word on stderr when there are others."""
    names = [each.name for each in pod.spec.containers]
    if len(names) > 1:
        click.echo(f'Defaulted container "{names[0]}" out of: {", ".join(names)}', err=True)
    return names[0]


def is_terminal() -> bool:
    """Whether a person types here."""
    with contextlib.suppress(OSError, ValueError):
        return os.isatty(sys.stdin.fileno())
    return False


def _write(descriptor: int, content: bytes) -> None:
    while content:
        try:
            content = content[os.write(descriptor, content) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            stream = "standard error" if descriptor == 2 else "standard output"
            raise WasmletError(f"cannot write to {stream}: {error.strerror}") from error


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
    """Keys go to the guest's terminal one by one, and this one's size is told."""
    descriptor = sys.stdin.fileno()
    loop, before = asyncio.get_running_loop(), termios.tcgetattr(descriptor)
    task = asyncio.current_task()
    sending = set[asyncio.Task[None]]()

    def resize() -> None:
        size = os.get_terminal_size(descriptor)
        told = loop.create_task(stream.resize(size.columns, size.lines), name="resize")
        sending.add(told)
        told.add_done_callback(sending.discard)

    loop.add_signal_handler(signal.SIGWINCH, resize)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel if task is not None else loop.stop)
    try:
        terminals.setraw(descriptor)
        resize()
        yield
    finally:
        for number in (signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)
        with contextlib.suppress(termios.error):  # it may have been closed
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
