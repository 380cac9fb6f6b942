"""Runs every demo and compares what it prints with its expected.txt: `python demos/run.py WASMLET`.

A demo with a request.txt serves HTTP: it is asked for that path, and its answer is compared.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

DEMOS = Path(__file__).parent


def main(wasmlet: str) -> int:
    """Run them one after another; returns 1 when one printed something else."""
    failed = 0
    for manifest in sorted(DEMOS.glob("*/pod.yaml")):
        print(f"$ wasmlet run demos/{manifest.parent.name}/pod.yaml", flush=True)
        request = manifest.parent / "request.txt"
        command = [wasmlet, "run", str(manifest)]
        status, output = asked(command, request.read_text().strip()) if request.exists() else printed(command)
        print(output, flush=True)
        if status != 0 or output != (manifest.parent / "expected.txt").read_text():
            print(f"demo {manifest.parent.name}: exit status {status}, and not what expected.txt says")
            failed = 1
    print("some demos failed" if failed else "all demos printed what they should")
    return failed


def printed(command: list[str]) -> tuple[int, str]:
    """Exit status and output of a demo that ends by itself."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return result.returncode, result.stdout


def asked(command: list[str], path: str) -> tuple[int, str]:
    """Exit status and answer of a demo that serves; it is interrupted afterwards."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next((line.strip() for line in process.stderr if line.startswith("http://")), "")
        answer = ""
        try:
            if address:
                with urllib.request.urlopen(address + path.lstrip("/"), timeout=10) as response:  # noqa: S310
                    answer = response.read().decode()
        finally:
            process.send_signal(signal.SIGINT)
            process.stderr.read()
        return process.wait(), answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
