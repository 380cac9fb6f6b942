"""What a container leaves when it has ended: its termination message (kubelet-contract 4.4)."""

from __future__ import annotations

import logging
from pathlib import Path

from wasmlet.kube.types import Container
from wasmlet.pods.directories import Places
from wasmlet.pods.facts import Attempt
from wasmlet.sandbox import protocol
from wasmlet.sandbox.logs import LogReader
from wasmlet.volumes import root
from wasmlet.volumes.root import TerminationFile

logger = logging.getLogger(__name__)

FALLBACK_LINES = 80
FALLBACK_BYTES = 2048


def read_end(places: Places, container: Container, attempt: Attempt, ended: protocol.Exit) -> str:
    """The termination message: the guest's file, else (by policy) the end of its log, else what the engine says."""
    if attempt.termination_root:
        file = TerminationFile(Path(attempt.termination_root), attempt.termination_path)
        if message := root.read_termination_message(file):
            return message
    if ended.message:
        return ended.message
    if container.termination_message_policy == "FallbackToLogsOnError" and ended.exit_code != 0:
        return _log_tail(places.log_file(container.name, attempt.number))
    return ""


def _log_tail(path: Path) -> str:
    reader, tail = LogReader(path), b""
    try:
        lines: list[bytes] = []
        while found := reader.read():
            lines = [*lines, *(line.content for line in found)][-FALLBACK_LINES:]
        tail = b"".join(lines)[-FALLBACK_BYTES:]
    except (OSError, ValueError) as error:
        logger.warning("reading log failed", extra={"path": str(path), "error": str(error)})
    finally:
        reader.close()
    return tail.decode(errors="replace")
