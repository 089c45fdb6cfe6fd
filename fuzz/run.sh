#!/usr/bin/env bash
# Fuzzes each target, or those named, with coverage: `fuzz/run.sh SECONDS [TARGET ...]`. It builds on the pinned stable toolchain: coverage is
# LLVM's, and a sanitizer of addresses would find nothing in code without `unsafe`. What is found goes to fuzz/artifacts, what is learned to
# fuzz/target/corpus; fuzz/corpus, which the tests run too, is only read.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?how many seconds each}
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=($(basename -s .rs targets/*.rs))
host=$(rustc -vV | sed -n 's/^host: //p')
passes='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1'
# Named, so that neither proc macros nor build scripts are instrumented.
RUSTFLAGS="--cfg fuzzing $(echo $passes)" CARGO_TARGET_DIR=target \
    cargo build --release --locked --target "$host" $(printf -- '--bin %s ' "${targets[@]}")
for target in "${targets[@]}"; do
    mkdir -p "target/corpus/$target" "artifacts/$target"
    echo "== $target, $seconds s"
    "target/$host/release/$target" "target/corpus/$target" "corpus/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 -artifact_prefix="artifacts/$target/" -print_final_stats=1 2>&1 |
        grep -E '^(==|#|stat::|SUMMARY|thread|Done|ERROR|.*panicked)|BINGO|artifact' | tail -25
done
