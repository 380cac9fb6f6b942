"""One line on a terminal's stderr that tells what a run waits for; gone when it goes on."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from wasmlet.cli.output import shown_size

if TYPE_CHECKING:
    from rich.status import Status

    from wasmlet.pods.accounts import Account, Frame, Progress


class ProgressLine:
    """Draws pulls and compiles, and says in a line of its own when a container is started again."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._restarts: dict[str, int] = {}

    def show(self, frame: Frame) -> None:
        """Draw what the frame tells."""
        if frame.progress is not None and frame.progress.stage == "done":
            self.clear()
        elif frame.progress is not None:
            self._draw(_text(frame.progress))
        elif frame.account is not None:
            self._tell_restarts(frame.account)
            if any(run.started for run in frame.account.runs) or frame.account.failures:
                self.clear()

    def clear(self) -> None:
        """Take the line away."""
        if self._status is not None:
            with contextlib.suppress(Exception):
                self._status.stop()
            self._status = None

    def _draw(self, text: str) -> None:
        if self._status is None:
            from rich.console import Console

            self._status = Console(stderr=True).status(text)
            self._status.start()
        self._status.update(text)

    def _tell_restarts(self, account: Account) -> None:
        for status in account.pod.status.container_statuses:
            waiting = status.state.waiting
            if waiting is None or waiting.reason != "CrashLoopBackOff" or status.last_state.terminated is None:
                continue
            if self._restarts.get(status.name) == status.restart_count:
                continue
            self._restarts[status.name] = status.restart_count
            policy = account.pod.spec.restart_policy
            from rich.console import Console

            Console(stderr=True).print(
                f"wasmlet: container {status.name} ended with {status.last_state.terminated.exit_code} and is started "
                f"again (restartPolicy {policy}); {waiting.message.partition(' restarting')[0]}; Ctrl-C ends the pod",
                style="dim",
                highlight=False,
                soft_wrap=True,
            )


def _text(progress: Progress) -> str:
    if progress.stage == "compile":
        return f"compiling {progress.subject} ({shown_size(progress.total_bytes)}), once; the next start is immediate"
    total = f" of {shown_size(progress.total_bytes)}" if progress.total_bytes else ""
    return f"pulling {progress.subject}: {shown_size(progress.done_bytes)}{total}"
