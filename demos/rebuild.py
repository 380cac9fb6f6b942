"""Rebuilds the demos of languages, the hello worlds and the greeters: rebuild.py [--check] LANGUAGE...

With --check the tree stays as it is: each demo is built in a temporary folder and, if the environment's WASMLET names
a wasmlet command, run there; its output or answer must have every line of expected.txt. Bytes are not compared, as
compilers do not promise the same ones on another machine.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demos.run import asked

DEMOS = Path(__file__).resolve().parent
PREFIXES = ("hello-world-", "http-greeter-")
WASM_MAGIC = b"\0asm"
RUN_SECONDS = 60


def main() -> int:
    """Rebuild or check what the command line names; give the exit code."""
    demos = {path.name.removeprefix(prefix): path for prefix in PREFIXES for path in sorted(DEMOS.glob(f"{prefix}*"))}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="build elsewhere, run with $WASMLET, change nothing")
    parser.add_argument("language", nargs="+", choices=demos)
    arguments = parser.parse_args()

    faults = 0
    for language in arguments.language:
        started = time.monotonic()
        demo = demos[language]
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
        if [binary.name for binary in binaries] != re.findall(r"file:(\S+)", (demo / "pod.yaml").read_text()):
            return f"rebuild.sh wrote {[binary.name for binary in binaries]}"
        if not all(binary.read_bytes().startswith(WASM_MAGIC) for binary in binaries):
            return "what rebuild.sh wrote is not WebAssembly"

        wasmlet = os.environ.get("WASMLET")
        return run(wasmlet, demo=demo, folder=Path(folder)) if wasmlet else None


def run(wasmlet: str, *, demo: Path, folder: Path) -> str | None:
    """Run a demo's manifest beside a fresh binary; give what is wrong with the output."""
    manifest = shutil.copy(demo / "pod.yaml", folder)
    if (demo / "request.txt").exists():
        status, answer = asked([wasmlet, "run", str(manifest)], (demo / "request.txt").read_text().strip(), 1)
        wanted = (demo / "expected.txt").read_text()
        return None if (status, answer) == (0, wanted) else f"wasmlet run ended with {status}, and answered {answer!r}"
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
