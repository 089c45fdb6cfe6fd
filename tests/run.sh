#!/usr/bin/env bash
# The test command: installs what the tests need (tests/tools.sh), then formatting, lints, every test of the workspace,
# and a short run of the demo. One build profile for everything, so that a cold run builds the dependencies once.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step 'tools'
tests/tools.sh
step 'formatting'
cargo fmt --all --check
step 'build'
cargo build --release --workspace --bins --locked
step 'lints'
cargo clippy --release --workspace --all-targets --locked -- --deny warnings
step 'tests'
cargo test --release --workspace --locked
step 'done'
