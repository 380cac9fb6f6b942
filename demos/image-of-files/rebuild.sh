#!/usr/bin/env bash
# rebuild.sh [OUTPUT_DIRECTORY]: the compiler is Zig's clang, from PyPI.
set -euo pipefail
cd "$(dirname "$0")"
output=${1:-.}
wasm=image-of-files.wasm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet/guests

export ZIG_GLOBAL_CACHE_DIR=$cache/zig
python3 -m venv "$cache/venv"
"$cache/venv/bin/pip" install --quiet ziglang==0.17.1
"$cache/venv/bin/python" -m ziglang cc -target wasm32-wasi -Oz -s -Wall -Wextra -Werror main.c -o "$output/$wasm"

chmod 644 "$output/$wasm"
sha256sum main.c Dockerfile data/greeting.txt data/latest.txt rebuild.sh "$output/$wasm" >"$output/SOURCE.sha256"
