"""Builds the guests of the tests: build.py [OUTPUT_DIRECTORY].

Every `NAME.c` becomes `NAME.wasm` (WASI preview 1) by Zig's clang, from PyPI; `hello` becomes a component
(WASI preview 2) too, by jco, from npm. Tools are kept in the user's cache, never in the tree.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wasmlet" / "guests"
ZIG = "ziglang==0.17.1"
JCO = "@bytecodealliance/jco@1.35.0"

# Zig keeps function names only together with debug sections, which `without_debug` takes out again.
FLAGS = ["-target", "wasm32-wasi", "-Oz", "-g", "-Wall", "-Wextra", "-Werror"]
SMALL_STACK = "-Wl,-z,stack-size=32768"  # a guest without stdio then fits in one page of memory


def main() -> None:
    """Build every guest and note what each was built from."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else HERE).resolve()
    sources = sorted(HERE.glob("*.c"))

    python = zig()
    for source in sources:
        compile_guest(python, source, output / f"{source.stem}.wasm")
    subprocess.run([jco(), "new", "hello.wasm", "--wasi-command", "-o", "hello.component.wasm"], cwd=output, check=True)

    built = [output / f"{source.stem}.wasm" for source in sources] + [output / "hello.component.wasm"]
    record = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted([*sources, *built, Path(__file__)], key=lambda file: file.name)
    )
    (output / "SOURCE.sha256").write_text(record)


def zig() -> Path:
    """Install Zig; give the Python that runs it."""
    subprocess.run([sys.executable, "-m", "venv", CACHE / "venv"], check=True)
    python = CACHE / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", ZIG], check=True)
    return python


def jco() -> Path:
    """Install jco, which makes components of modules; give its command."""
    subprocess.run(["npm", "install", "--silent", "--no-save", "--prefix", CACHE / "jco", JCO], check=True)
    return CACHE / "jco" / "node_modules" / ".bin" / "jco"


def compile_guest(python: Path, source: Path, wasm: Path) -> None:
    """Compile one C file, without debug sections."""
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig")}
    command: list[str | Path] = [python, "-m", "ziglang", "cc", *FLAGS, SMALL_STACK, source.name, "-o", wasm]
    subprocess.run(command, cwd=HERE, env=environment, check=True)
    wasm.write_bytes(without_debug(wasm.read_bytes()))
    wasm.chmod(0o644)


def without_debug(wasm: bytes) -> bytes:
    """Leave out every custom section but `name`, which backtraces need."""
    return wasm[:8] + b"".join(section for number, name, section in sections(wasm) if number != 0 or name == b"name")


def sections(wasm: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Give each section's number, name (of a custom one) and bytes, head included."""
    start = 8
    while start < len(wasm):
        size, body = unsigned(wasm, start + 1)
        length, text = unsigned(wasm, body)
        yield wasm[start], wasm[text : text + length], wasm[start : body + size]
        start = body + size


def unsigned(wasm: bytes, start: int) -> tuple[int, int]:
    """Read one LEB128 number; give it and the place after it."""
    value = shift = 0
    while True:
        byte = wasm[start]
        start += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, start


if __name__ == "__main__":
    main()
