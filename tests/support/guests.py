"""The guests that tests run: those of `tests/guests`, one C file each, and the binaries of the demos."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
GUESTS: Final = ROOT / "tests" / "guests"
DEMOS: Final = ROOT / "demos"

# The languages of the hello-world demos, as their folders spell them.
DEMO_LANGUAGES: Final = ("rust", "c", "assemblyscript", "go")


def guest(name: str) -> Path:
    """Give the binary of a test guest: `hello`, `exit`, `hello.component` (the only component), ..."""
    return built(GUESTS / f"{name}.wasm")


def http_guest() -> Path:
    """Give the component that serves HTTP: each path of its requests is one behaviour."""
    return built(ROOT / "tests" / "http-guest" / "http-guest.wasm")


def spin_guest() -> Path:
    """Give the component that answers with what it was told and given: Spin's headers, its environment, its files."""
    return built(ROOT / "tests" / "spin-guest" / "spin-guest.wasm")


def p3_command() -> Path:
    """Give the command of WASI 0.3: its first argument is what it does."""
    return built(ROOT / "tests" / "p3-command-guest" / "p3-command-guest.wasm")


def p3_http() -> Path:
    """Give the component that serves HTTP by WASI 0.3: each path of its requests is one behaviour."""
    return built(ROOT / "tests" / "p3-http-guest" / "p3-http-guest.wasm")


def demo_guest(language: str) -> Path:
    """Give the binary of a hello-world demo; Go's is the one guest here of a real program's size."""
    return built(DEMOS / f"hello-world-{language}" / f"hello-world-wasi-{language}.wasm")


def built(wasm: Path) -> Path:
    """Give the path back if something is there.

    Raises:
        FileNotFoundError: Nobody built that guest.
    """
    if not wasm.is_file():
        raise FileNotFoundError(f"no guest {wasm.relative_to(ROOT)}: tests/guests/build.py or its rebuild.sh makes it")
    return wasm
