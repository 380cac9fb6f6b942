#!/usr/bin/env bash
# rebuild.sh [OUTPUT_DIRECTORY]: the compiler is the machine's own Go, 1.21 or newer.
set -euo pipefail
cd "$(dirname "$0")"
output=${1:-.}
wasm=hello-world-wasi-go.wasm

export GOOS=wasip1 GOARCH=wasm GOWORK=off
export GOCACHE=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet/guests/go
go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$output/$wasm" .

chmod 644 "$output/$wasm"
sha256sum main.go go.mod rebuild.sh "$output/$wasm" >"$output/SOURCE.sha256"
