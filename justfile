# List what there is to do.
default:
    @just --list

# Two worlds side by side on this machine: Trimtab and a baseline. Takes about 90 s.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Everything that runs on a submission: tools, formatting, lints, tests.
test:
    tests/run.sh

# Tests of one crate, e.g. `just t trimtab-proxy drain`.
t CRATE *ARGS:
    cargo test --release -p {{CRATE}} {{ARGS}}

# Compare with nginx, HAProxy and Envoy on real sockets; prints ratios, writes target/compare.json.
compare *ARGS:
    tests/tools.sh
    cargo build --release --workspace --all-targets
    target/release/compare {{ARGS}}

# CPU per proxied request against nginx, HAProxy and Envoy.
overhead *ARGS:
    tests/tools.sh
    cargo build --release --workspace --all-targets
    target/release/overhead {{ARGS}}

# What idle connections cost and what abuse does to everybody else: `just abuse idle`, `just abuse others`.
abuse *ARGS:
    cargo build --release --workspace --all-targets
    target/release/abuse {{ARGS}}

# A long time at half load: memory and descriptors must stay flat, no request may fail.
soak MINUTES="20":
    cargo build --release --workspace --all-targets
    target/release/abuse soak {{MINUTES}}

# Fuzz each target (or those named) with coverage for so many seconds.
fuzz SECONDS="600" *TARGETS:
    fuzz/run.sh {{SECONDS}} {{TARGETS}}

# Whether the fuzz targets build.
fuzz-check:
    fuzz/check.sh

# A Kubernetes cluster on this machine, as the tests have it (needs root); `just cluster FILE.yaml` applies objects. Ctrl-C ends it.
cluster *FILES:
    cargo build --release --workspace --all-targets
    target/release/cluster {{FILES}}

# Micro-benchmarks: pick, decide, tick, scrape.
bench *ARGS:
    cargo bench --workspace {{ARGS}}

# Formatting and lints.
lint:
    cargo fmt --all --check
    cargo clippy --release --workspace --all-targets -- --deny warnings

# Which crate costs how much to build, from scratch: target/cargo-timings.
timings:
    cargo build --release --workspace --timings
