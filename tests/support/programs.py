"""Programs that a test writes: Python scripts that can be run by their names."""

import sys
from pathlib import Path


def script(directory: Path, name: str, source: str) -> Path:
    """An executable file of Python source, whose standard library alone is there."""
    path = directory / name
    path.write_text(f"#!{sys.executable} -IS\n{source}")
    path.chmod(0o755)
    return path
