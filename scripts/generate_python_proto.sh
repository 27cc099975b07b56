#!/usr/bin/env bash
# Rewrites the Python code of the worker protocol from its .proto file, below the folder that is given,
# or in place.
#
# The system's protoc (3.21) is used on purpose: its output asks for no version of the runtime, so it
# works with every protobuf from 4.21 to the pinned 7.36, where newer compilers tie it to two majors.
# tests/test_python_proto.py checks that the result is current.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${1:-python/src}"
protoc --proto_path=proto --python_out="$out" --pyi_out="$out" lakebed/worker/v1/worker.proto
