#!/usr/bin/env bash
# Rewrites the locked requirements files from their .in files; run after changing one of those. Needs
# uv on the path. The locks hold for every platform and for Python 3.11 and newer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
overrides="$PWD/tests/overrides.txt"
# compile LIST [OPTIONS]: LIST.in into LIST.txt.
compile() {
  (cd "$(dirname "$1")" && uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
    --no-emit-index-url --no-header --no-annotate "${@:2}" \
    "$(basename "$1").in" --output-file "$(basename "$1").txt")
}
for list in tests/requirements tests/lancedb_tests/requirements tests/operators bench/gpu/requirements; do
  compile "$list" --override "$overrides"
done
# datatrove needs what is left out there.
compile bench/requirements
