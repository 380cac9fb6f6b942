#!/usr/bin/env bash
# rebuild.sh [OUTPUT_DIRECTORY]: componentize-py puts the program and CPython into a component, after the program's
# imports were done. It ends with 69 where the package registry does not give componentize-py.
set -euo pipefail
cd "$(dirname "$0")"
output=$(realpath "${1:-.}")
wasm=http-greeter-python.wasm
version=0.25.1
tools=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet/guests/componentize-py-$version

if ! "$tools/bin/componentize-py" --version >/dev/null 2>&1; then
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/pip" install --quiet --disable-pip-version-check "componentize-py==$version" || exit 69 # EX_UNAVAILABLE
fi

# WASI's interfaces as the engine has them come with the crate that it implements them by.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
crate=$(cargo metadata --format-version 1 --locked --manifest-path ../../Cargo.toml | python3 -c '
import json, pathlib, sys
print(*(pathlib.Path(each["manifest_path"]).parent
        for each in json.load(sys.stdin)["packages"] if each["name"] == "wasmtime-wasi-http"))')
cp -r "$crate/wit/deps" "$work/deps"
cp greeter.wit "$work"
mkdir "$work/program"
cp main.py "$work/program"
"$tools/bin/componentize-py" --wit-path "$work" --world greeter \
  componentize main --python-path "$work/program" --output "$output/$wasm"

{ sha256sum main.py greeter.wit rebuild.sh; cd "$output"; sha256sum "$wasm"; } >"$output/SOURCE.sha256"
