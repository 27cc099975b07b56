#!/bin/sh
# Fuzzes the decoding of Arrow messages, the cutting of Arrow streams, and the headers of media and
# recordings, each for SECONDS (60 by default), and fails on the first finding.
#
#   fuzz/run.sh [SECONDS]
#
# Builds with the stable compiler: coverage comes from LLVM's own pass, without a sanitizer. What is
# built and the corpus lie in fuzz/target, so that a later run goes on where this one ended. A finding
# is left in fuzz/target/findings; run the target with that file to see it again.
set -eu
seconds="${1:-60}"
here="$(cd "$(dirname "$0")" && pwd)"
target="$here/target"
triple="$(rustc -vV | sed -n 's/^host: //p')"
corpus="$target/corpus"
mkdir -p "$target/findings"

cd "$here"
export CARGO_TARGET_DIR="$target"
# The seeds need no coverage, and their own folder keeps both builds.
cargo build --quiet --release --bin seeds
"$target/release/seeds" "$corpus"

flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
flags="$flags -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
RUSTFLAGS="$flags" cargo build --quiet --release --target "$triple" \
    --bin ipc_messages --bin ipc_stream --bin media_headers --bin recordings

# The limits of the targets are 1 MiB for a batch; lz4 needs two blocks of 4 MiB and a window beside it.
for name in ipc_messages ipc_stream; do
    "$target/$triple/release/$name" "$corpus/$name" \
        -max_total_time="$seconds" -malloc_limit_mb=16 -rss_limit_mb=1024 -timeout=10 -max_len=32768 \
        -verbosity=0 -print_final_stats=1 -artifact_prefix="$target/findings/"
done
# Headers are read within 32 MiB; a window of zstd may have 64 MiB.
for name in media_headers recordings; do
    "$target/$triple/release/$name" "$corpus/$name" \
        -max_total_time="$seconds" -malloc_limit_mb=80 -rss_limit_mb=1024 -timeout=20 -max_len=65536 \
        -verbosity=0 -print_final_stats=1 -artifact_prefix="$target/findings/"
done
