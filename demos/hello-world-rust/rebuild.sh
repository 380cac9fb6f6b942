#!/usr/bin/env bash
# rebuild.sh [OUTPUT_DIRECTORY]: the compiler is Debian's, whose packages bring the source of the
# standard library, so that it can be built for wasm32-wasip1 here.
set -euo pipefail
cd "$(dirname "$0")"
output=${1:-.}
wasm=hello-world-wasi-rust.wasm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/wasmlet/guests

packages=(rustc-web rust-web-src wasi-libc lld)
if ! dpkg --status "${packages[@]}" &>/dev/null; then
  apt-get update --quiet
  apt-get install --quiet --yes --no-install-recommends "${packages[@]}"
fi

libc=/usr/lib/wasm32-wasi
export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR=$cache/rust
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-C link-self-contained=no -C linker=wasm-ld
  -L $libc -C link-arg=$libc/crt1-command.o -Z location-detail=none"
cargo build --quiet --locked --release --target wasm32-wasip1 \
  -Z build-std=std,panic_abort -Z build-std-features=optimize_for_size

install -m 644 "$CARGO_TARGET_DIR/wasm32-wasip1/release/$wasm" "$output/$wasm"
sha256sum Cargo.toml Cargo.lock src/main.rs rebuild.sh "$output/$wasm" >"$output/SOURCE.sha256"
