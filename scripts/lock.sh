#!/usr/bin/env bash
# Rewrites the locked requirements files from their .in files; run after changing one of those. Needs
# uv on the path. The locks hold for every platform and for Python 3.11 and newer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
overrides="$PWD/tests/overrides.txt"
for folder in tests tests/lancedb_tests bench bench/gpu; do
  (cd "$folder" && uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
    --no-emit-index-url --no-header --no-annotate --override "$overrides" \
    requirements.in --output-file requirements.txt)
done
