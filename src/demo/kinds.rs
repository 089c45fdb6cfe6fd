//! Kinds of requests that differ in what they cost, told apart by their paths: what a load asks for, and how long a pod takes for each.
//!
//! A path ends in the request's number, as ids do in real ones: `/c3/users/1042`. The number also seeds the work that the request is, so that
//! it is the same work for every pod and behind every router.

use std::net::SocketAddr;

use hyper::Uri;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::service_time::ServiceTime;

/// One kind of request, as a pod knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// What the paths of its requests begin with.
    pub path: String,
    /// How long they take on this pod at speed 1.
    pub service: ServiceTime,
}

/// How long the request with this path takes at speed 1, milliseconds; `None` if it is of none of these kinds.
pub fn work_ms(kinds: &[Kind], path: &str) -> Option<f64> {
    let kind = kinds.iter().find(|kind| path.starts_with(&kind.path))?;
    let number = path.rsplit('/').next().and_then(|last| last.parse().ok()).unwrap_or(0);
    Some(kind.service.draw_ms(&mut StdRng::seed_from_u64(number)))
}

/// What the requests of a load ask for.
#[derive(Debug, Clone, PartialEq)]
pub enum Asks {
    /// All for the same.
    Path(String),
    /// Each for one of these, by chance, with a number of its own at the end.
    Kinds(Vec<Share>),
}

/// One kind of request, as a load knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// What the paths of its requests begin with.
    pub path: String,
    /// How many of all requests are of it, relative to the others.
    pub share: f64,
}

impl Asks {
    /// The paths of a load's requests in their order, which depend on nothing but `seed`.
    pub fn paths(&self, seed: u64) -> impl Iterator<Item = String> + '_ {
        // Another sequence than that of the arrival times.
        let mut rng = StdRng::seed_from_u64(!seed);
        // Requests of different loads have different numbers.
        let first = (seed % 1_000_000) * 10_000_000;
        (first..).map(move |number| match self {
            Self::Path(path) => path.clone(),
            Self::Kinds(kinds) => {
                let mut left = rng.random::<f64>() * kinds.iter().map(|kind| kind.share).sum::<f64>();
                let past = |kind: &&Share| {
                    left -= kind.share;
                    left < 0.0
                };
                let kind = kinds.iter().find(past).or(kinds.last());
                format!("{}{number}", kind.map_or("/", |kind| &kind.path))
            }
        })
    }
}

/// Where a request goes.
///
/// # Errors
/// If the path is none.
pub fn uri(target: SocketAddr, path: &str) -> Result<Uri, http::Error> {
    Uri::builder().scheme("http").authority(target.to_string()).path_and_query(path).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds() -> Vec<Kind> {
        let kind = |path: &str, ms_mean| Kind { path: path.into(), service: ServiceTime::Exponential { ms_mean } };
        vec![kind("/c0/users/", 4.0), kind("/c1/users/", 400.0)]
    }

    #[test]
    fn a_request_is_the_same_work_wherever_it_is_served() {
        let once = work_ms(&kinds(), "/c0/users/7");
        assert_eq!(once, work_ms(&kinds(), "/c0/users/7"));
        assert_ne!(once, work_ms(&kinds(), "/c0/users/8"));
        let dearer = work_ms(&kinds(), "/c1/users/7").unwrap() / once.unwrap();
        assert!((dearer - 100.0).abs() < 1e-9, "{dearer}");
        assert_eq!(work_ms(&kinds(), "/metrics"), None);
    }

    #[test]
    fn kinds_are_asked_for_in_their_shares_and_each_request_once() {
        let share = |path: &str, share| Share { path: path.into(), share };
        let asks = Asks::Kinds(vec![share("/c0/users/", 3.0), share("/c1/users/", 1.0)]);
        let paths: std::collections::BTreeSet<String> = asks.paths(5).take(20_000).collect();
        assert_eq!(paths.len(), 20_000);
        let cheap = paths.iter().filter(|path| path.starts_with("/c0/users/")).count();
        assert!(cheap.abs_diff(15_000) < 300, "{cheap}");
        assert!(asks.paths(5).take(100).eq(asks.paths(5).take(100)));
        assert!(asks.paths(6).take(20_000).all(|path| !paths.contains(&path)));
    }
}
