"""What users of engines can do on the machine, tried by other programs."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from wasmlet.sandbox.engines import User

READS, LISTS, WRITES = ("cat",), ("ls", "-a"), ("dd", "if=/dev/null", "oflag=append", "conv=notrunc", "status=none")
CLOSED = "Permission denied"


def tried(user: User, program: Sequence[str], path: Path) -> str:
    """What a process of that user prints, or the error that it ends with; nothing but the user holds it."""
    argument = f"of={path}" if program is WRITES else str(path)
    done = subprocess.run(
        [*program, argument], user=user.user, group=user.group, extra_groups=user.groups,
        capture_output=True, check=False, cwd="/",
    )  # fmt: skip
    return done.stderr.decode().strip().rpartition(": ")[2] if done.returncode else done.stdout.decode("latin-1")
