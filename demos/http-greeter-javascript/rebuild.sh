#!/usr/bin/env bash
# rebuild.sh [OUTPUT_DIRECTORY]: componentize-js puts the program and a JavaScript engine into a component, after the
# program's first lines have run; jco, which comes with it, has the descriptions of WASI's interfaces.
set -euo pipefail
cd "$(dirname "$0")"
output=$(realpath "${1:-.}")
wasm=http-greeter-javascript.wasm
tools=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet/guests/componentize-js

# The shim is named since npm puts it only where componentize-js does not look for it.
npm install --silent --no-save --prefix "$tools" \
  @bytecodealliance/componentize-js@0.23.0 @bytecodealliance/preview2-shim@0.17.8

rm -rf "$tools/wit"
mkdir "$tools/wit"
cp greeter.wit "$tools/wit"
cp -r "$tools/node_modules/@bytecodealliance/jco/lib/wit/builtin/0.2.12" "$tools/wit/deps"
# What the program imports is the same in both; the JavaScript engine was built against the older one.
find "$tools/wit/deps" -name '*.wit' -exec sed --in-place 's/0\.2\.12/0.2.10/g' {} +
node build.mjs "$tools" "$output/$wasm"

(cd "$output" && chmod 644 "$wasm")
{ sha256sum main.js greeter.wit build.mjs rebuild.sh; cd "$output"; sha256sum "$wasm"; } >"$output/SOURCE.sha256"
