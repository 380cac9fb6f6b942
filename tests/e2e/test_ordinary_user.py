"""An ordinary user's rights suffice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wasmlet as package
from tests.support.guests import DEMOS
from tests.support.processes import end_all
from wasmlet.sandbox.program import find_engine_program

NOBODY = 65534


def test_run_without_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("this run is an ordinary user's, so every other test shows it")
    home = Path("/tmp") / f"wasmlet-user-{os.getpid()}"
    home.mkdir(mode=0o755)
    try:
        command, environment = _installed_for(home)
        os.chown(home, NOBODY, NOBODY)
        result = subprocess.run(
            [*command, "run", str(home / "demo" / "pod.yaml")],
            user=NOBODY, group=NOBODY, extra_groups=[], cwd=home, env=environment,
            capture_output=True, timeout=50, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert b"CONFIG_MAP_VAL=cool stuff" in result.stdout
        state = home / ".local" / "state" / "wasmlet"
        assert state.stat().st_uid == NOBODY
        assert state.stat().st_mode & 0o077 == 0
    finally:
        end_all(home)
        shutil.rmtree(home)


def _installed_for(home: Path) -> tuple[list[str], dict[str, str]]:
    """Both programs and what they import where that user can read them."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = python and subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
    if not python or not found or not found.startswith(f"Python {version}."):
        pytest.skip(f"there is no Python {version} that other users may run")
    library = Path(next(each for each in sys.path if each.endswith("site-packages")))
    shutil.copytree(library, home / "library", ignore=shutil.ignore_patterns("mypy*", "ruff*", "hypothesis*", "pip*"))
    shutil.copytree(Path(package.__file__).parent, home / "library" / "wasmlet", dirs_exist_ok=True)
    shutil.copytree(DEMOS / "hello-world-c", home / "demo")
    shutil.copy(find_engine_program(), home / "wasmlet-engine")
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(home / "library"),
        "WASMLET_ENGINE": str(home / "wasmlet-engine"),
    }
    return [python, "-m", "wasmlet"], environment
