#!/usr/bin/env bash
# rust-component.sh FOLDER [OUTPUT_DIRECTORY]: builds a folder's crate as a component, into that folder unless told else.
#
# The compiler is Debian's, whose packages bring the source of the standard library, so that it can be built for
# wasm32-wasip2 here; jco makes a component of what it writes.
set -euo pipefail
script=$(realpath "$0")
output=$(realpath "${2:-$1}")
cd "$1"
name=$(sed -n 's/^name = "\(.*\)"/\1/p' Cargo.toml)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet/guests

packages=(rustc-web rust-web-src wasi-libc lld)
if ! dpkg --status "${packages[@]}" &>/dev/null; then
  apt-get update --quiet
  apt-get install --quiet --yes --no-install-recommends "${packages[@]}"
fi
npm install --silent --no-save --prefix "$cache/jco" @bytecodealliance/jco@1.35.0

export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=$cache/rust
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-C link-self-contained=no -C linker=wasm-ld
  -L /usr/lib/wasm32-wasi -Z location-detail=none"
cargo build --quiet --locked --release --target wasm32-wasip1 \
  -Z build-std=std,panic_abort -Z build-std-features=optimize_for_size

"$cache/jco/node_modules/.bin/jco" new --wasi-reactor -o "$output/$name.wasm" \
  "$CARGO_TARGET_DIR/wasm32-wasip1/release/${name//-/_}.wasm"
(cd "$output" && chmod 644 "$name.wasm")
script=$(realpath --relative-to=. "$script")
{ sha256sum Cargo.toml Cargo.lock src/lib.rs rebuild.sh "$script"; cd "$output"; sha256sum "$name.wasm"; } >"$output/SOURCE.sha256"
