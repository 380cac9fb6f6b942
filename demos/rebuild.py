"""Rebuilds the hello-world demos: rebuild.py [--check] LANGUAGE...

With --check the tree stays as it is: each demo is built in a temporary folder and, if the environment's WASMLET names
a wasmlet command, run there; its output must have every line of expected.txt. Bytes are not compared, as compilers
do not promise the same ones on another machine.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEMOS = Path(__file__).resolve().parent
WASM_MAGIC = b"\0asm"
RUN_SECONDS = 60


def main() -> int:
    """Rebuild or check what the command line names; give the exit code."""
    languages = sorted(path.name.removeprefix("hello-world-") for path in DEMOS.glob("hello-world-*"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="build elsewhere, run with $WASMLET, change nothing")
    parser.add_argument("language", nargs="+", choices=languages)
    arguments = parser.parse_args()

    faults = 0
    for language in arguments.language:
        started = time.monotonic()
        demo = DEMOS / f"hello-world-{language}"
        if arguments.check:
            fault = check(demo)
        else:
            fault = "rebuild.sh failed" if subprocess.run([demo / "rebuild.sh"]).returncode else None
        print(f"{demo.name}: {fault or 'ok'} ({time.monotonic() - started:.1f} s)")
        faults += fault is not None
    return 1 if faults else 0


def check(demo: Path) -> str | None:
    """Build a demo in a temporary folder and try it; give what is wrong with it."""
    with tempfile.TemporaryDirectory(prefix=f"{demo.name}-") as folder:
        if subprocess.run([demo / "rebuild.sh", folder]).returncode:
            return "rebuild.sh failed"
        binaries = list(Path(folder).glob("*.wasm"))
        if [binary.name for binary in binaries] != [binary.name for binary in demo.glob("*.wasm")]:
            return f"rebuild.sh wrote {[binary.name for binary in binaries]}"
        if not all(binary.read_bytes().startswith(WASM_MAGIC) for binary in binaries):
            return "what rebuild.sh wrote is not WebAssembly"

        wasmlet = os.environ.get("WASMLET")
        return run(wasmlet, demo=demo, folder=Path(folder)) if wasmlet else None


def run(wasmlet: str, *, demo: Path, folder: Path) -> str | None:
    """Run a demo's manifest beside a fresh binary; give what is wrong with the output."""
    manifest = shutil.copy(demo / "pod.yaml", folder)
    try:
        ended = subprocess.run(
            [wasmlet, "run", manifest],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"wasmlet run did not end within {RUN_SECONDS} s"
    missing = [line for line in (demo / "expected.txt").read_text().splitlines() if line not in ended.stdout]
    if ended.returncode or missing:
        return f"wasmlet run ended with {ended.returncode}, without the lines {missing}:\n{ended.stdout}"
    return None


if __name__ == "__main__":
    sys.exit(main())
