"""Tells when the source and the binary of a demo or a test guest have parted ways.

A folder with binaries has a SOURCE.sha256, written by what built them: one line for every source, build script (also
one outside, that several share) and binary. This check ends with 1 and names each file that is not as it was then, or
was not there. Where the binary is not committed (a .gitignore says so), there is nothing to compare.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = "SOURCE.sha256"
NOT_SOURCE = {RECORD, "README.md", "pod.yaml", "refused.yaml", "expected.txt", "ends.txt", "request.txt"}


def main() -> int:
    """Check every folder; give the exit code."""
    rebuilt = (path.parent for folder in ("demos", "tests") for path in ROOT.glob(f"{folder}/*/rebuild.sh"))
    folders = [*sorted(each for each in rebuilt if not (each / ".gitignore").exists()), ROOT / "tests" / "guests"]
    faults = [f"{folder.relative_to(ROOT)}/{fault}" for folder in folders for fault in parted(folder)]
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print("hint: run that folder's rebuild.sh (tests/guests: build.py) and commit what it writes", file=sys.stderr)
    return 1 if faults else 0


def parted(folder: Path) -> Iterator[str]:
    """Give one line for every file that the folder's record does not describe as it is."""
    record = folder / RECORD
    if not record.is_file():
        yield f"{RECORD}: missing"
        return
    lines = (line.split(maxsplit=1) for line in record.read_text().splitlines())
    recorded = {Path(name): digest for digest, name in lines}
    present = set(sources_and_binaries(folder))
    for name in sorted(recorded.keys() | present):
        if not (folder / name).is_file():
            yield f"{name}: missing, though {RECORD} lists it"
        elif name not in recorded:
            yield f"{name}: not in {RECORD}"
        elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != recorded[name]:
            yield f"{name}: changed since the last build"


def sources_and_binaries(folder: Path) -> Iterator[Path]:
    """Give every file of a folder, relative to it, that a build reads or writes."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and name.name not in NOT_SOURCE and "__pycache__" not in name.parts:
            yield name


if __name__ == "__main__":
    sys.exit(main())
