#!/usr/bin/env bash
# Writes the Rust code of proto/lakebed/ anew; run after changing a .proto file there. The code is
# committed, so that building Lakebed does not need this. A test notices when it was forgotten.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT
target="${LAKEBED_CACHE:-$HOME/.cache/lakebed}/target-codegen"
(cd proto/codegen && CARGO_TARGET_DIR="$target" cargo run --quiet -- .. "$out")
digest="$(sha256sum proto/lakebed/worker/v1/worker.proto | cut -d' ' -f1)"
{
  echo "// Written by scripts/generate_proto.sh; do not edit."
  echo "// sha256 of worker.proto: $digest"
  cat "$out/lakebed.worker.v1.rs"
} > proto/src/generated/worker_v1.rs
rustfmt --edition 2024 proto/src/generated/worker_v1.rs
