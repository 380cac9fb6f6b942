"""Runs every demo and compares what it prints with its expected.txt: `python demos/run.py WASMLET`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DEMOS = Path(__file__).parent


def main(wasmlet: str) -> int:
    """Run them one after another; returns 1 when one printed something else."""
    failed = 0
    for manifest in sorted(DEMOS.glob("*/pod.yaml")):
        print(f"$ wasmlet run demos/{manifest.parent.name}/pod.yaml", flush=True)
        command = [wasmlet, "run", str(manifest)]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        print(result.stdout, flush=True)
        if result.returncode != 0 or result.stdout != (manifest.parent / "expected.txt").read_text():
            print(f"demo {manifest.parent.name}: exit status {result.returncode}, and not what expected.txt says")
            failed = 1
    print("some demos failed" if failed else "all demos printed what they should")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
