#!/usr/bin/env bash
# Checks that the targets still build: as fuzz/run.sh builds them, but without coverage, code or linking. Tests run the same functions without
# `--cfg fuzzing`; only here is it seen that a target, what it needs under that flag, or Cargo.lock has fallen behind the workspace. Another flag is
# another build of every dependency, so they have a folder of their own, beside the workspace's: about 70 s on two cores the first time, then 2 s.
set -euo pipefail
cd "$(dirname "$0")"

RUSTFLAGS='--cfg fuzzing --deny warnings' CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=../target/fuzz cargo check --locked --bins
