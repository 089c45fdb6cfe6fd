//! What recordings have, before anything is made of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trimtab_model::recording::{RequestRow, TickRow};

/// A pause between two ticks longer than this is a gap.
const GAP_MS: i64 = 3_000;

/// What the recordings of one backend have.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// `namespace/service:port`.
    pub backend: String,
    /// First and last tick, milliseconds since the Unix epoch.
    pub span_ms: (i64, i64),
    /// Hours that ticks cover, gaps left out.
    pub hours: f64,
    /// Ticks.
    pub ticks: usize,
    /// Endpoints that were ever there.
    pub endpoints: usize,
    /// Sampled requests.
    pub requests: usize,
    /// Requests that proxies reported, in all.
    pub answered: u64,
    /// Kinds of requests that are told apart.
    pub classes: usize,
    /// Proxies that sampled requests.
    pub proxies: usize,
    /// Share of the ticks with exploration.
    pub exploration_share: f64,
    /// Pauses of more than three seconds between ticks, and times that the clock went back.
    pub gaps: usize,
    /// Versions of the policy that were in force, with their share of the ticks.
    pub policies: BTreeMap<String, f64>,
}

impl Inventory {
    /// Of every backend in these rows, the busiest first.
    pub fn of(ticks: &[TickRow], requests: &[RequestRow]) -> Vec<Self> {
        let mut backends: BTreeMap<&str, Vec<&TickRow>> = BTreeMap::new();
        for row in ticks {
            backends.entry(&row.backend).or_default().push(row);
        }
        let mut found: Vec<Self> = backends.into_iter().map(|(backend, rows)| one(backend, &rows, requests)).collect();
        found.sort_by(|a, b| b.answered.cmp(&a.answered).then_with(|| a.backend.cmp(&b.backend)));
        found
    }

    /// The policy that was in force for most of the time.
    pub fn behaviour(&self) -> Option<&str> {
        self.policies.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(version, _)| version.as_str())
    }
}

fn one(backend: &str, rows: &[&TickRow], requests: &[RequestRow]) -> Inventory {
    // In the order in which they were written: a clock that went back shows.
    let mut times: Vec<(i64, &TickRow)> = Vec::new();
    for row in rows {
        if times.last().is_none_or(|(at_ms, last)| (*at_ms, last.tick) != (row.at_ms, row.tick)) {
            times.push((row.at_ms, row));
        }
    }
    let gaps = times.windows(2).filter(|pair| !(0..=GAP_MS).contains(&(pair[1].0 - pair[0].0))).count();
    let covered: f64 = times.iter().map(|(_, row)| row.interval_s).filter(|s| s.is_finite() && *s >= 0.0).sum();
    let mut policies: BTreeMap<String, f64> = BTreeMap::new();
    for (_, row) in &times {
        *policies.entry(row.policy_version.clone()).or_default() += 1.0 / times.len() as f64;
    }
    let exploring = times.iter().filter(|(_, row)| row.log_probability.is_some()).count();
    let counted = |row: &&TickRow| {
        [row.reported_successes, row.reported_errors, row.reported_failures].into_iter().flatten().sum::<u64>()
    };
    let own = || requests.iter().filter(|row| row.backend == backend);
    let span = |of: fn(&[i64]) -> Option<&i64>| {
        let mut all: Vec<i64> = times.iter().map(|(at_ms, _)| *at_ms).collect();
        all.sort_unstable();
        of(&all).copied().unwrap_or(0)
    };
    Inventory {
        backend: backend.to_owned(),
        span_ms: (span(<[i64]>::first), span(<[i64]>::last)),
        hours: covered / 3_600.0,
        ticks: times.len(),
        endpoints: rows.iter().map(|row| row.endpoint).collect::<BTreeSet<_>>().len(),
        requests: own().count(),
        answered: rows.iter().map(counted).sum(),
        classes: own().filter_map(|row| row.class_key).collect::<BTreeSet<_>>().len(),
        proxies: own().map(|row| &row.proxy).collect::<BTreeSet<_>>().len(),
        exploration_share: exploring as f64 / times.len().max(1) as f64,
        gaps,
        policies,
    }
}
