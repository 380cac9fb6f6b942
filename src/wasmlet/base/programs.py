"""Programs of others that answer a question: credential plugins, systemctl. Bounded in time and output; no shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Answer", "ask"]

CHUNK_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program said.

    Attributes:
        status: Its exit status, negative for a signal; None when it said more than was asked for, and was ended.
        output: Its standard output. Its standard error is thrown away: it may quote what it was given.
    """

    status: int | None
    output: bytes = field(repr=False)


async def ask(
    command: Sequence[str | Path],
    *,
    seconds: float,
    most_bytes: int,
    question: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Run a program in a session of its own, give it the question as its input, and take its answer.

    Whatever it started ends with it, at the latest when this returns.

    Args:
        command: The program, looked up in PATH unless there is a slash in it, and its arguments.
        seconds: Longer is a TimeoutError.
        most_bytes: Of output.
        question: What it finds on its standard input.
        environment: All of it; None is our own.

    Raises:
        OSError: It cannot be started.
        TimeoutError: It did not end.
    """
    # The pipe is ours and not asyncio's: there `wait` would first wait for somebody to read the rest of the output.
    read, write = os.pipe2(os.O_CLOEXEC)
    stream = os.fdopen(read, "rb", buffering=0)
    try:
        with _as_file(question) as stdin:
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, stdin=stdin, stdout=write, stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
    except BaseException:
        stream.close()
        raise
    finally:
        os.close(write)
    reader = asyncio.StreamReader()
    try:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), stream
        )
        try:
            async with asyncio.timeout(seconds):
                output = await _read(reader, most_bytes)
                return Answer(await process.wait() if len(output) <= most_bytes else None, output)
        finally:
            transport.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("question")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


async def _read(stream: asyncio.StreamReader, most_bytes: int) -> bytes:
    """All of it, or a little more than what is allowed."""
    output = bytearray()
    while len(output) <= most_bytes and (chunk := await stream.read(CHUNK_BYTES)):
        output += chunk
    return bytes(output)
