#!/usr/bin/env bash
# rebuild.sh [OUTPUT_DIRECTORY]: the compiler and its WASI bindings come from npm.
set -euo pipefail
cd "$(dirname "$0")"
output=${1:-.}
wasm=hello-world-wasi-assemblyscript.wasm
tools=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet/guests/assemblyscript

npm install --silent --no-save --prefix "$tools" assemblyscript@0.28.20 @assemblyscript/wasi-shim@0.1.0
cp main.ts "$tools"
(
  cd "$tools" # asc finds its libraries only below the folder that it runs in
  node_modules/.bin/asc main.ts --config node_modules/@assemblyscript/wasi-shim/asconfig.json -Oz --outFile "$wasm"
)

install -m 644 "$tools/$wasm" "$output/$wasm"
sha256sum main.ts rebuild.sh "$output/$wasm" >"$output/SOURCE.sha256"
