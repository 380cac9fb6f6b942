"""The real command line: `python -m wasmlet` in a process of its own, on a state directory of the test's own."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tests.support.guests import ROOT
from tests.support.processes import processes_of
from tests.support.waiting import eventually_now

TIMEOUT_SECONDS = 40.0


class Command:
    """Runs `wasmlet --state …`."""

    def __init__(self, state: Path, *, program: Path) -> None:
        self.state = state
        self.config = state.parent / "config.toml"
        self.config.touch()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(state.parent),
            "PYTHONPATH": str(ROOT / "src"),
            "WASMLET_ENGINE": str(program),
            "WASMLET_CONFIG": str(self.config),
        }

    def arguments(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "wasmlet", "--state", str(self.state), *arguments]

    def run(self, *arguments: str, input: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        """Run it to its end."""
        return subprocess.run(
            self.arguments(*arguments), input=input, capture_output=True, env=self.environment,
            timeout=TIMEOUT_SECONDS, cwd=cwd, check=False,
        )  # fmt: skip

    def succeed(self, *arguments: str, **named: Any) -> str:
        """What a command that must succeed has written to stdout."""
        result = self.run(*arguments, **named)
        assert result.returncode == 0, result
        return result.stdout.decode()

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator["Started"]:
        """Start it, and kill it at the end if it has not ended."""
        process = subprocess.Popen(
            self.arguments(*arguments), env=self.environment, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with process:
            try:
                yield Started(process)
            finally:
                process.kill()

    def pods(self) -> list[dict[str, Any]]:
        """The pods that `ps` knows."""
        items: list[dict[str, Any]] = json.loads(self.succeed("ps", "-o", "json"))["items"]
        return items

    def agent_pid(self) -> int:
        """The process that serves the state directory."""
        return int((self.state / "agent.lock").read_text())

    def kill_agent(self) -> None:
        """SIGKILL, and wait until it has ended."""
        pid = self.agent_pid()
        os.kill(pid, 9)
        eventually_now(lambda: pid not in processes_of(self.state), pid)


class Started:
    """A command that runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin: IO[bytes] = process.stdin
        self.stdout: IO[bytes] = process.stdout
        self.stderr: IO[bytes] = process.stderr

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes of stdout, or fewer at its end."""
        content = b""
        while len(content) < count and (chunk := self.stdout.read(count - len(content))):
            content += chunk
        return content

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(TIMEOUT_SECONDS)
