#!/usr/bin/env bash
# rebuild.sh [OUTPUT_DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")"
exec ../../demos/rust-component.sh . "${1:-.}"
