"""Runs every demo and compares what it prints with its expected.txt: `python demos/run.py WASMLET`.

A demo with a request.txt serves HTTP: it is asked for that path, and its answer is compared. Of a demo with an ends.txt
the exit code and the reason of each container are compared instead: it breaks on purpose. Of one with a Dockerfile an
image is built first, and taken into the local store. One whose binary is too large to be committed is built first, too
(built.py), or left out where its compiler is not to be had. A demo with a run.py of its own is more than a manifest:
that script shows it.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demos import built

DEMOS = Path(__file__).parent
END_SECONDS = 60.0
SERVED = ":8080/"  # by the container that is asked


def main(wasmlet: str) -> int:
    """Run them one after another; returns 1 when one printed something else."""
    failed = 0
    for manifest in sorted(DEMOS.glob("*/pod.yaml")):
        demo = manifest.parent
        folder = built.folder(demo)
        if folder is None:
            continue
        print(f"$ wasmlet run demos/{demo.name}/pod.yaml", flush=True)
        output = run(wasmlet, folder / manifest.name, demo)
        print(output, flush=True)
        wanted = demo / ("ends.txt" if (demo / "ends.txt").exists() else "expected.txt")
        if output != wanted.read_text():
            print(f"demo {demo.name}: not what {wanted.name} says")
            failed = 1
    for script in sorted(DEMOS.glob("*/run.py")):
        name = f"demos/{script.parent.name}"
        print(f"$ python {name}/run.py wasmlet", flush=True)
        status, output = printed([sys.executable, str(script), wasmlet])
        print(output, flush=True)
        if status != 0 or output != (script.parent / "expected.txt").read_text():
            print(f"demo {script.parent.name}: not what expected.txt says")
            failed = 1
    print("some demos failed" if failed else "all demos printed what they should")
    return failed


def run(wasmlet: str, manifest: Path, demo: Path) -> str:
    """What a demo prints, answers or ends as; a line that says so when its exit status is not 0."""
    command = [wasmlet, "run", str(manifest)]
    if (demo / "Dockerfile").exists():
        build = [sys.executable, str(DEMOS / "image.py"), str(demo), f"localhost/{demo.name}:1"]
        archive = subprocess.run(build, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run([wasmlet, "load"], input=archive, stdout=subprocess.DEVNULL, check=True)
    request = demo / "request.txt"
    if (demo / "ends.txt").exists():
        return ended(wasmlet, command)
    if request.exists():
        status, output = asked(command, request.read_text().strip(), manifest.read_text().count("containerPort:"))
    else:
        status, output = printed(command)
    return output if status == 0 else f"{output}exit status {status}\n"


def ended(wasmlet: str, command: list[str]) -> str:
    """A line for each container of a demo that ends by itself: its name, exit code and reason."""
    pod = subprocess.run([*command, "--detach"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    try:
        give_up = time.monotonic() + END_SECONDS
        while time.monotonic() < give_up:
            shown = subprocess.run([wasmlet, "inspect", pod], stdout=subprocess.PIPE, text=True, check=True).stdout
            status = json.loads(shown)["pod"]["status"]
            if status["phase"] in ("Succeeded", "Failed"):
                ends = ((each["name"], each["state"]["terminated"]) for each in status["containerStatuses"])
                return "".join(f"{name} {end['exitCode']} {end['reason']}\n" for name, end in ends)
            time.sleep(0.2)
        return f"no end within {END_SECONDS:g} s\n"
    finally:
        subprocess.run([wasmlet, "rm", pod], stdout=subprocess.DEVNULL, check=False)


def printed(command: list[str]) -> tuple[int, str]:
    """Exit status and output of a demo that ends by itself."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return result.returncode, result.stdout


def asked(command: list[str], path: str, ports: int) -> tuple[int, str]:
    """Exit status and answer of a demo that serves, asked when all its ports are open; it is interrupted afterwards."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = (line.strip() for line in process.stderr if line.startswith("http://"))
        address = next((each for each in list(itertools.islice(lines, ports)) if each.endswith(SERVED)), "")
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
