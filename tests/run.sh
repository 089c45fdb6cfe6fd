#!/usr/bin/env bash
# The test command: installs what the tests need (tests/tools.sh), then formatting, lints, whether what is fuzzed builds, and every test of the workspace.
# Always --workspace --all-targets: cargo resolves the features of dependencies by what is built, and another selection would
# build most of them once more.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step 'tools'
tests/tools.sh
step 'formatting'
cargo fmt --all --check
step 'build'
cargo build --release --workspace --all-targets --locked
step 'lints'
cargo clippy --release --workspace --all-targets --locked -- --deny warnings
step 'fuzz targets'
fuzz/check.sh
step 'tests'
cargo test --release --workspace --all-targets --locked
step 'done'
