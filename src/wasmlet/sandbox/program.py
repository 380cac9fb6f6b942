"""Where the engine's program is, and which release it is."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from wasmlet.base.errors import UserError

PROGRAM = "wasmlet-engine"


def find_engine_program() -> Path:
    """The `wasmlet-engine` that belongs to this agent.

    Looked for in `$WASMLET_ENGINE`, then the scripts directory of this Python, then `<prefix>/bin`, then the user
    scheme: an environment's own engine comes before one that a user installed beside it.

    Raises:
        UserError: None of them holds it, or `$WASMLET_ENGINE` names no executable file.
    """
    named = os.environ.get("WASMLET_ENGINE")
    if named:
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named)
        raise UserError(f"WASMLET_ENGINE names {named}, which is no executable file", hint="unset it, or correct it")
    directories = [
        sysconfig.get_path("scripts"),
        str(Path(sys.prefix) / "bin"),
        sysconfig.get_path("scripts", scheme="posix_user"),
    ]
    found = shutil.which(PROGRAM, path=os.pathsep.join(directories))
    if found is None:
        raise UserError(
            f"{PROGRAM} was found in none of {', '.join(directories)}",
            hint="install the wasmlet wheel (it holds both programs), or set WASMLET_ENGINE",
        )
    return Path(found)
