"""LanceDB's own Python tests, run unchanged against Lakebed: `make lancedb-tests`."""
