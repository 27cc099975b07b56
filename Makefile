# One list of commands, the same on a developer's machine and in CI. `make help` shows it.
#
# Two caches lie outside the clone so that nothing is fetched or compiled twice:
#   CARGO_TARGET_DIR   what cargo builds           (default ~/.cache/lakebed/target)
#   LAKEBED_CACHE      data packages, tool stamps  (default ~/.cache/lakebed)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup arrows test test-rust test-python lancedb-tests rust-client-tests check bench soak serve demo clean

export LAKEBED_CACHE ?= $(HOME)/.cache/lakebed
export CARGO_TARGET_DIR ?= $(LAKEBED_CACHE)/target
export CARGO_TERM_COLOR ?= never

PYTHON := .venv/bin/python
BINARY := $(CARGO_TARGET_DIR)/debug/lakebed
RUST_CLIENT := $(LAKEBED_CACHE)/rust-client
# Extra arguments for pytest: make test PYTEST_ARGS="-k upsert -x"
PYTEST_ARGS ?=

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile

setup: ## System packages, Python environment and test data, each only if missing
	@scripts/setup.sh

arrows: setup ## Check the rules of the source tree; takes a second
	@$(PYTHON) scripts/check_arrows.py

test: arrows test-rust test-python ## Everything that has to pass before a change lands

# One selection of crates for every cargo command: testing crates one by one would unify features
# differently and compile shared dependencies again.
test-rust: arrows ## The tests written in Rust
	cargo test --locked --workspace
	cargo build --locked --workspace

test-python: test-rust ## The tests that drive the built server through real clients
	LAKEBED_BIN=$(BINARY) $(PYTHON) -m pytest tests $(PYTEST_ARGS)

# PYTEST_ARGS names some of them, or says how they are run.
lancedb-tests: setup ## LanceDB's own Python tests, fetched and run against the server
	cargo build --locked -p lakebed
	LAKEBED_BIN=$(BINARY) PYTHONPATH=tests $(PYTHON) -m lancedb_tests $(PYTEST_ARGS)

# A target folder of its own: the client has other features of lance than the server.
rust-client-tests: setup ## LanceDB's Rust client, built and run against the server; the first time takes minutes
	cargo build --locked -p lakebed
	cargo build --manifest-path tests/rust/Cargo.toml --target-dir $(RUST_CLIENT)
	LAKEBED_BIN=$(BINARY) LAKEBED_RUST_CLIENT=$(RUST_CLIENT)/debug/lakebed-rust-client \
	  $(PYTHON) -m pytest tests/test_lancedb_rust.py $(PYTEST_ARGS)

check: setup ## Formatting, lints with warnings denied, rules of the tree
	cargo fmt --all --check
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) scripts/check_arrows.py
	cargo clippy --locked --workspace --all-targets -- -D warnings

bench: setup ## Ratios against named peers; writes bench/results/latest.{json,png}
	@scripts/setup.sh bench
	cargo build --locked --release -p lakebed -p lakebed-index --bin lakebed --example resident
	LAKEBED_BIN=$(CARGO_TARGET_DIR)/release/lakebed \
	  LAKEBED_RESIDENT_BIN=$(CARGO_TARGET_DIR)/release/examples/resident \
	  PYTHONPATH=tests $(PYTHON) -m bench

soak: export LAKEBED_SOAK := 1
soak: test-rust ## The long forms of the tests: 50 kills, full sizes
	@scripts/setup.sh soak
	LAKEBED_BIN=$(BINARY) $(PYTHON) -m pytest tests $(PYTEST_ARGS)

# Variables of this file are taken out of the environment: the server refuses LAKEBED_ variables that
# it does not know.
serve: ## Run a server on ./lakebed-data; arguments in ARGS="--http-addr 127.0.0.1:0"
	cargo build --locked -p lakebed
	exec env -u LAKEBED_CACHE -u LAKEBED_BIN $(BINARY) serve $(ARGS)

demo: setup ## Fill a lake, embed, search, and write a page; EXIT=1 ends it, FRESH=1 starts anew
	cargo build --locked -p lakebed
	LAKEBED_BIN=$(BINARY) $(PYTHON) -m demo

clean: ## Remove the Python environment and what cargo built for this clone's crates
	rm -rf .venv .pytest_cache .ruff_cache
	cargo clean -p lakebed -p lakebed-core -p lakebed-proto -p lakebed-media -p lakebed-storage -p lakebed-index \
	  -p lakebed-compaction -p lakebed-sql -p lakebed-jobs -p lakebed-service -p lakebed-flight -p lakebed-rest
