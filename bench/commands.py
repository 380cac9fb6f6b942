"""The whole command: `wasmlet run` of a hello whose image is compiled already."""

from __future__ import annotations

from pathlib import Path

from bench.harness import GUESTS, Row, Sample, end_processes, run_command, state_directory

BAR_SECONDS = 0.6
RUNS = 15


def measure() -> list[Row]:
    """With an agent that serves already, and with one that has to be started first."""
    warm, cold = Sample(), Sample()
    with state_directory() as state:
        module = str(GUESTS / "hello.wasm")
        run_command(state, "run", module)
        for _ in range(RUNS):
            warm.seconds.append(_run(state, module))
        for _ in range(RUNS // 3):
            end_processes(state)
            cold.seconds.append(_run(state, module))
    bar = f"≤ {BAR_SECONDS} s"
    return [
        Row(
            f"`wasmlet run` of a cached hello, whole command, median of {RUNS}",
            f"{warm.percentile(50):.2f} s",
            bar,
            warm.percentile(50) <= BAR_SECONDS,
        ),
        Row(
            f"the same when no agent runs yet (agent and engine are started), median of {RUNS // 3}",
            f"{cold.percentile(50):.2f} s",
            bar,
            cold.percentile(50) <= BAR_SECONDS,
        ),
    ]


def _run(state: Path, module: str) -> float:
    status, seconds, output = run_command(state, "run", module)
    if status != 0 or not output.startswith(b"hello"):
        raise RuntimeError(f"hello ended with {status} and printed {output!r}")
    return seconds
