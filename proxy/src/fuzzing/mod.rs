//! What is fuzzed, each with an oracle: a slow twin, another reader of the same bytes, or a round trip. A function here takes any bytes and
//! panics where the oracle disagrees. `fuzz/` runs them with coverage, for minutes (`just fuzz`); the tests below run each for a moment on
//! its corpus and on what comes of it by chance, so that a submission cannot break a target or an oracle unseen; `fuzz/check.sh` checks that
//! the targets build, which are made of all this with another flag and other dependencies than tests.
//!
//! To add one: a function in a file here, its name in [`TARGETS`], a line in `fuzz/Cargo.toml`, three lines in `fuzz/targets/`, and a few
//! inputs in `fuzz/corpus/NAME/`.
#![allow(clippy::unwrap_used, reason = "a finding is a panic")]

mod ads;
mod bodies;
mod proxy_protocol;
mod routes;

pub use ads::{ads, weights};
pub use bodies::chunked;
pub use proxy_protocol::proxy_protocol;
pub use routes::route;

/// The name of a corpus, and what takes its inputs.
pub type Target = (&'static str, fn(&[u8]));

/// What is fuzzed.
pub const TARGETS: [Target; 7] = [
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("ads", ads),
    ("weights", weights),
    ("route", route),
    ("proxy_protocol", proxy_protocol),
];

/// A request's head that the fast path takes is one that hyper's path reads in the same way, and says in the same way to an endpoint.
pub fn request_head(head: &[u8]) {
    crate::http::fast::twin::check_request(head).unwrap();
}

/// The same for an answer's head; the first byte says whether it was asked for by HEAD.
pub fn response_head(data: &[u8]) {
    if let Some((first, head)) = data.split_first() {
        crate::http::fast::twin::check_response(head, first & 1 == 1).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

    use super::*;

    /// Inputs made of each corpus; `FUZZ_ROUNDS` and `FUZZ_SEED` ask for others.
    const ROUNDS: u64 = 3_000;

    fn set(name: &str, default: u64) -> u64 {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files.iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    /// Bytes changed, cut out, doubled, and put together from two inputs.
    fn mutated(corpus: &[Vec<u8>], rng: &mut SmallRng) -> Vec<u8> {
        let mut input = corpus.choose(rng).unwrap().clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..=input.len());
            let end = rng.random_range(at..=input.len().min(at + 16));
            match rng.random_range(0..6) {
                0 if at < input.len() => input[at] = rng.random(),
                1 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
                2 => input.insert(at, *b"\r\n :,;0a%+*/\0\xff".choose(rng).unwrap()),
                3 => drop(input.drain(at..end)),
                4 => {
                    let again = input[at..end].to_vec();
                    input.splice(at..at, again);
                }
                _ => {
                    let other = corpus.choose(rng).unwrap();
                    let from = rng.random_range(0..=other.len());
                    input.truncate(at);
                    input.extend_from_slice(&other[from..]);
                }
            }
        }
        input
    }

    #[test]
    fn no_oracle_disagrees_on_the_corpus_or_on_what_comes_of_it_by_chance() {
        for (number, (name, target)) in TARGETS.into_iter().enumerate() {
            let corpus = corpus(name);
            assert!(corpus.len() >= 3, "{name}: {} inputs", corpus.len());
            let seed = set("FUZZ_SEED", number as u64);
            let mut rng = SmallRng::seed_from_u64(seed);
            let check = |input: &[u8]| {
                let caught = std::panic::catch_unwind(|| target(input));
                assert!(caught.is_ok(), "{name}, seed {seed}: {:?}", String::from_utf8_lossy(input));
            };
            corpus.iter().for_each(|input| check(input));
            (0..set("FUZZ_ROUNDS", ROUNDS)).for_each(|_| check(&mutated(&corpus, &mut rng)));
        }
    }

    #[test]
    fn what_is_fuzzed_is_what_is_tested() {
        let fuzz = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for (name, _) in TARGETS {
            let path = format!("targets/{name}.rs");
            let target = std::fs::read_to_string(fuzz.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(target.contains(&format!("trimtab_proxy::fuzzing::{name}(data)")), "{path}: {target}");
            let binary = format!("[[bin]]\nname = \"{name}\"\npath = \"{path}\"\n");
            assert!(manifest.contains(&binary), "fuzz/Cargo.toml has no {binary}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
        assert_eq!(std::fs::read_dir(fuzz.join("targets")).unwrap().count(), TARGETS.len());
    }

    #[test]
    fn a_corpus_is_small() {
        for (name, _) in TARGETS {
            let corpus = corpus(name);
            let bytes: usize = corpus.iter().map(Vec::len).sum();
            assert!(corpus.len() <= 200 && bytes <= 64 << 10, "{name}: {} inputs, {bytes} bytes", corpus.len());
        }
    }
}
