"""Where a demo can be run from: `python demos/built.py DEMO` prints the folder with its manifest and its binary.

That is the demo's own folder. A binary that is too large to be committed (its folder has a .gitignore) is built into
the cache by the demo's rebuild.sh, and again when a source has changed since; it lies there beside a copy of the
manifest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

DEMOS = Path(__file__).resolve().parent
RECORD = "SOURCE.sha256"
UNAVAILABLE = 69
"""What a rebuild.sh ends with when its compiler is not to be had: EX_UNAVAILABLE of <sysexits.h>."""


def folder(demo: Path) -> Path | None:
    """The folder to run `demo` from; None, and a line on stderr: it cannot be built here, for want of a compiler.

    Raises:
        CalledProcessError: The build failed.
    """
    if not (demo / ".gitignore").exists():
        return demo
    place = cache() / "demos" / demo.name
    place.mkdir(parents=True, exist_ok=True)
    if not is_current(demo, place):
        print(f"building demos/{demo.name} once, into {place}", file=sys.stderr, flush=True)
        status = subprocess.run([demo / "rebuild.sh", place], stdout=sys.stderr, check=False).returncode
        if status == UNAVAILABLE:
            print(f"demo {demo.name}: its compiler is not to be had here; left out", file=sys.stderr, flush=True)
            return None
        if status:
            raise subprocess.CalledProcessError(status, demo / "rebuild.sh")
    shutil.copy(demo / "pod.yaml", place)
    return place


def is_current(demo: Path, place: Path) -> bool:
    """Whether the binary in `place` is there, and was made of the sources as they are."""
    try:
        lines = (line.split(maxsplit=1) for line in (place / RECORD).read_text().splitlines())
        return all(
            hashlib.sha256(((place if name.endswith(".wasm") else demo) / name).read_bytes()).hexdigest() == digest
            for digest, name in lines
        )
    except FileNotFoundError:
        return False


def cache() -> Path:
    """What is built once and kept outside the clone."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "wasmlet"


if __name__ == "__main__":
    found = folder(DEMOS / sys.argv[1])
    if found is None:
        sys.exit(UNAVAILABLE)
    print(found)
