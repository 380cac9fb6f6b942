#!/usr/bin/env bash
# rebuild.sh [OUTPUT_DIRECTORY]: the compiler is Zig's clang, from PyPI. It keeps function names, which backtraces show,
# only together with debug sections; the test guests' build takes those out again.
set -euo pipefail
cd "$(dirname "$0")"
output=$(realpath "${1:-.}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet/guests

export ZIG_GLOBAL_CACHE_DIR=$cache/zig
python3 -m venv "$cache/venv"
"$cache/venv/bin/pip" install --quiet ziglang==0.17.1
compile=("$cache/venv/bin/python" -m ziglang cc -target wasm32-wasi -Oz -g -fno-sanitize=all -Wall -Wextra -Werror)
for name in breaks-on-purpose asks-too-much; do
  "${compile[@]}" "$name.c" -o "$output/$name.wasm"
  PYTHONPATH=../../tests/guests PYTHONDONTWRITEBYTECODE=1 python3 -c '
import build, pathlib, sys
wasm = pathlib.Path(sys.argv[1])
wasm.write_bytes(build.without_debug(wasm.read_bytes()))' "$output/$name.wasm"
  (cd "$output" && chmod 644 "$name.wasm")
done
{ sha256sum ./*.c rebuild.sh; cd "$output"; sha256sum ./*.wasm; } | sed 's| \./| |' >"$output/SOURCE.sha256"
