//! The guard's actions as a person can follow them: many endpoints with the same reason at one tick are one line, and a
//! reason that stays from tick to tick is one episode with a beginning and an end.

use std::collections::VecDeque;

use serde::Serialize;
use trimtab_controller::view::{GuardView, Reason};

use crate::reasons;

/// From so many endpoints on, one reason at one tick is one action about all of them.
const FOLD_FROM: usize = 17;

/// Episodes that are kept for each backend; the one that ended first goes first.
const EPISODES_MAX: usize = 200;

/// An episode goes on if its reason comes back within this time: about six ticks.
const GAP_MS: i64 = 3_000;

/// Longest detail that is kept, in characters.
const DETAIL_CHARS_MAX: usize = 240;

/// One or more actions of the guard with the same reason at one tick.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Action {
    /// Why.
    pub reason: Reason,
    /// The endpoint; `None`: all of them, or the many that `endpoints` counts.
    pub endpoint: Option<String>,
    /// How many actions were folded into this one; 1 if none were.
    pub endpoints: usize,
    /// What was wanted and what was allowed; of the first, if many were folded.
    pub detail: String,
}

/// The actions of one tick, with many of one reason folded into one.
pub fn fold(guard: &[GuardView]) -> Vec<Action> {
    let mut actions = Vec::new();
    for reason in reasons::ALL {
        let same = || guard.iter().filter(move |action| action.reason == reason);
        let endpoints = same().count();
        if endpoints < FOLD_FROM {
            actions.extend(same().map(|one| action(one, one.endpoint.clone(), 1, shorten(&one.detail))));
        } else if let Some(first) = same().next() {
            let example = first.endpoint.as_deref().unwrap_or("all");
            actions.push(action(first, None, endpoints, shorten(&format!("{example}: {}", first.detail))));
        }
    }
    actions
}

fn action(of: &GuardView, endpoint: Option<String>, endpoints: usize, detail: String) -> Action {
    Action { reason: of.reason, endpoint, endpoints, detail }
}

fn shorten(detail: &str) -> String {
    match detail.char_indices().nth(DETAIL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &detail[..end]),
        None => detail.to_owned(),
    }
}

/// A reason that held for a while.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Episode {
    /// What the guard did, as at its last tick.
    #[serde(flatten)]
    pub action: Action,
    /// First tick, milliseconds since the Unix epoch.
    pub from_ms: i64,
    /// Last tick so far.
    pub to_ms: i64,
    /// Ticks on which it acted.
    pub ticks: u64,
}

/// The episodes of one backend, bounded in number.
#[derive(Debug, Default)]
pub struct Log {
    episodes: VecDeque<Episode>,
}

impl Log {
    /// Takes up the actions of the tick at `at_ms`.
    pub fn push(&mut self, at_ms: i64, guard: &[GuardView]) {
        for action in fold(guard) {
            let same = |episode: &&mut Episode| {
                episode.action.reason == action.reason
                    && episode.action.endpoint == action.endpoint
                    && (episode.action.endpoints == 1) == (action.endpoints == 1)
                    && at_ms - episode.to_ms <= GAP_MS
            };
            match self.episodes.iter_mut().rev().find(same) {
                Some(episode) => {
                    episode.action = action;
                    episode.to_ms = at_ms;
                    episode.ticks += 1;
                }
                None => {
                    self.episodes.push_back(Episode { action, from_ms: at_ms, to_ms: at_ms, ticks: 1 });
                }
            }
        }
        while self.episodes.len() > EPISODES_MAX {
            let first = (0..self.episodes.len()).min_by_key(|&index| self.episodes[index].to_ms);
            first.and_then(|index| self.episodes.remove(index));
        }
    }

    /// Forgets what ended before `at_ms`.
    pub fn forget_before(&mut self, at_ms: i64) {
        self.episodes.retain(|episode| episode.to_ms >= at_ms);
    }

    /// Forgets what began at `at_ms` or later: the clock was set back.
    pub fn forget_from(&mut self, at_ms: i64) {
        self.episodes.retain(|episode| episode.from_ms < at_ms);
        for episode in &mut self.episodes {
            episode.to_ms = episode.to_ms.min(at_ms);
        }
    }

    /// The episodes that lasted to `since_ms` or beyond, the earliest beginning first.
    pub fn since(&self, since_ms: i64) -> Vec<Episode> {
        self.episodes.iter().filter(|episode| episode.to_ms >= since_ms).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acted(reason: Reason, endpoint: impl Into<String>) -> GuardView {
        GuardView { reason, endpoint: Some(endpoint.into()), detail: "0.4 wanted, 0.3 allowed".into() }
    }

    fn many(count: usize) -> Vec<GuardView> {
        (0..count).map(|index| acted(Reason::StepLimit, format!("pod-{index}"))).collect()
    }

    #[test]
    fn few_actions_stay_and_many_become_one() {
        assert_eq!(fold(&many(16)).len(), 16);
        let folded = fold(&many(5000));
        assert_eq!(folded.len(), 1);
        assert_eq!((folded[0].endpoints, folded[0].endpoint.as_deref()), (5000, None));
        assert_eq!(folded[0].detail, "pod-0: 0.4 wanted, 0.3 allowed");
    }

    #[test]
    fn a_reason_that_stays_is_one_episode_and_one_that_returns_later_is_another() {
        let mut log = Log::default();
        for at_ms in [0, 500, 1000, 10_000] {
            log.push(at_ms, &[acted(Reason::StepLimit, "a")]);
        }
        let spans: Vec<_> = log.since(0).iter().map(|e| (e.from_ms, e.to_ms, e.ticks)).collect();
        assert_eq!(spans, [(0, 1000, 3), (10_000, 10_000, 1)]);
        assert_eq!(log.since(5_000).len(), 1);
    }

    #[test]
    fn the_log_is_bounded_and_keeps_what_still_goes_on() {
        let mut log = Log::default();
        for tick in 0..1_000 {
            log.push(
                tick * 500,
                &[acted(Reason::ModeShadow, "always"), acted(Reason::StepLimit, format!("pod-{tick}"))],
            );
        }
        let episodes = log.since(0);
        assert_eq!(episodes.len(), EPISODES_MAX);
        assert_eq!((episodes[0].action.reason, episodes[0].ticks), (Reason::ModeShadow, 1_000));
    }

    #[test]
    fn long_details_are_cut_at_a_character() {
        let mut action = acted(Reason::StepLimit, "a");
        action.detail = "é".repeat(1_000);
        assert_eq!(fold(&[action])[0].detail.chars().count(), DETAIL_CHARS_MAX + 1);
    }
}
