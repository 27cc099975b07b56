"""Generated from proto/lakebed/worker/v1/worker.proto by scripts/generate_proto.sh."""
