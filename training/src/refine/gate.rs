//! The gate: promotes only what is better with 95 % confidence and worse in nothing that matters, by estimators that can be trusted and that agree. Its
//! refusals say what is missing.

use serde::{Deserialize, Serialize};

use super::foresight::{Foresight, NEWS_MAX, TELLING_MIN};
use crate::offline::{estimate::Estimate, outcome::Measure, vote::Vote};

/// What must not get worse by more than this, at the far end of its interval: errors and lost goodput in shares, latencies in logarithms.
const ERRORS_WORSE_MAX: f64 = 0.002;
const GOODPUT_WORSE_MAX: f64 = 0.005;
const LATENCY_WORSE_MAX: f64 = 0.03;
/// The same of the requests of one class that are answered within the objective, at the near end: of many classes one is worst by chance.
const CLASS_WORSE_MAX: f64 = 0.01;
/// The least that is worth a change of policy.
const LATENCY_BETTER_MIN: f64 = 0.01;
const GOODPUT_BETTER_MIN: f64 = 0.005;

/// Why a candidate is not promoted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "refusal", rename_all = "snake_case")]
pub enum Refusal {
    /// Its file cannot be used.
    Broken {
        /// What is wrong with it.
        why: String,
    },
    /// Too few estimators can be trusted to say anything.
    Support {
        /// Who did not vote, and why.
        abstained: Vec<(String, String)>,
    },
    /// Estimators contradict each other.
    Disagreement {
        /// On what.
        measure: Measure,
        /// What each of them says.
        says: Vec<(String, f64)>,
    },
    /// It may be worse in something.
    Worse {
        /// In what.
        measure: Measure,
        /// How much worse it may be: the far end of the interval.
        by: f64,
        /// The most that is accepted.
        accepted: f64,
    },
    /// It surely serves some requests worse, whatever it does for the others.
    Class {
        /// Which.
        class: String,
        /// How many of them, as a share, fewer are answered within the objective.
        by: f64,
    },
    /// It is not better with confidence.
    NotBetter {
        /// The near ends of the intervals of what could have been better.
        ends: Vec<(Measure, f64)>,
    },
    /// What it claims to know does not explain requests that it was not fitted to.
    Foresight {
        /// What it does.
        found: Option<Foresight>,
    },
}

/// What the gate found of one candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// All estimates that it heard.
    pub estimates: Vec<Estimate>,
    /// What they say together.
    pub votes: Vec<Vote>,
    /// For a candidate that knows more than the incumbent: whether what it knows is so.
    pub foresight: Option<Foresight>,
    /// Why not; nothing: it is promoted.
    pub refusals: Vec<Refusal>,
}

impl Gate {
    /// Hears the estimates of a candidate against the incumbent. `only_facts`: nothing in the candidate is new but facts about the service. Those change
    /// what the proxies do with every request and not what was recorded of the policy's actions, so that the estimators that weigh recorded actions
    /// cannot speak of it; in their place the facts must explain requests that they were not found from.
    pub fn hear(estimates: Vec<Estimate>, only_facts: bool, foresight: Option<Foresight>) -> Self {
        let votes = Vote::all(&estimates);
        let mut refusals = Vec::new();
        let trusted = |measure: Measure| {
            let finite = |e: &&Estimate| e.difference.is_finite() && e.low.is_finite() && e.high.is_finite();
            estimates.iter().filter(move |e| e.measure == measure && e.trusted).filter(finite)
        };
        let needed = if only_facts { 1 } else { 2 };
        if Measure::ALL.iter().any(|measure| trusted(*measure).count() < needed) {
            let of_tail = |vote: &&Vote| vote.measure == Measure::LogP99;
            let abstained = votes.iter().find(of_tail).map(|vote| vote.abstained.clone()).unwrap_or_default();
            refusals.push(Refusal::Support { abstained });
            // One alone promotes nothing, but it is heard where it is sure of harm.
            refusals.extend(Measure::ALL.into_iter().filter_map(|measure| {
                let near = |e: &Estimate| if measure.is_cost() { e.low } else { -e.high };
                let by = trusted(measure).map(near).fold(f64::NEG_INFINITY, f64::max);
                let accepted = worse_max(measure);
                (by > accepted).then_some(Refusal::Worse { measure, by, accepted })
            }));
            return Self { estimates, votes, foresight, refusals };
        }
        if only_facts
            && !foresight.is_some_and(|found| found.is_news() && (found.explains_waits() || found.shows_room()))
        {
            refusals.push(Refusal::Foresight { found: foresight });
        }
        for measure in Measure::ALL {
            let says = |estimate: &Estimate| (estimate.estimator.clone(), estimate.difference);
            let signs = |worse: bool| {
                let low = |e: &&Estimate| if measure.is_cost() == worse { e.low > 0.0 } else { e.high < 0.0 };
                trusted(measure).filter(low).count()
            };
            if signs(true) > 0 && signs(false) > 0 {
                refusals.push(Refusal::Disagreement { measure, says: trusted(measure).map(says).collect() });
            }
        }
        let combined = |measure: Measure| interval(measure, &votes);
        for measure in Measure::ALL {
            let accepted = worse_max(measure);
            let (low, high) = combined(measure);
            let by = if measure.is_cost() { high } else { -low };
            // A median request may wait a little longer for the slowest to wait much less; what may not is the tail.
            let lenient = measure == Measure::LogMean && combined(Measure::LogP99).1 < -LATENCY_BETTER_MIN;
            if by > accepted && !lenient {
                refusals.push(Refusal::Worse { measure, by, accepted });
            }
        }
        let tail = combined(Measure::LogP99).1;
        let goodput = combined(Measure::Goodput).0;
        if tail > -LATENCY_BETTER_MIN && goodput < GOODPUT_BETTER_MIN {
            let ends = vec![(Measure::LogP99, tail), (Measure::Goodput, goodput)];
            refusals.push(Refusal::NotBetter { ends });
        }
        Self { estimates, votes, foresight, refusals }
    }

    /// The same, with what a trusted twin says of the class that the candidate serves worst, see `Runs::class_harmed`.
    #[must_use]
    pub fn minding(mut self, class: Option<(String, f64)>) -> Self {
        let harmed = class.filter(|(_, by)| *by > CLASS_WORSE_MAX);
        self.refusals.extend(harmed.map(|(class, by)| Refusal::Class { class, by }));
        self
    }

    /// Whether the candidate is promoted.
    pub fn promotes(&self) -> bool {
        self.refusals.is_empty()
    }

    /// A candidate that cannot even be loaded.
    pub fn broken(why: String) -> Self {
        Self { estimates: Vec::new(), votes: Vec::new(), foresight: None, refusals: vec![Refusal::Broken { why }] }
    }
}

/// How much worse something may be.
fn worse_max(measure: Measure) -> f64 {
    match measure {
        Measure::Errors => ERRORS_WORSE_MAX,
        Measure::Goodput => GOODPUT_WORSE_MAX,
        Measure::LogMean | Measure::LogP99 => LATENCY_WORSE_MAX,
    }
}

/// The interval of the vote. It is wider than what its voters say, by what they are off beyond chance: a twin that speaks alone is no surer than others.
fn interval(measure: Measure, votes: &[Vote]) -> (f64, f64) {
    let vote = votes.iter().find(|vote| vote.measure == measure);
    vote.map_or((f64::NEG_INFINITY, f64::INFINITY), |vote| (vote.low, vote.high))
}

impl Refusal {
    /// In words that a person can check.
    pub fn in_words(&self) -> String {
        let list = |pairs: &[(String, String)]| {
            pairs.iter().map(|(who, why)| format!("{who} ({why})")).collect::<Vec<_>>().join("; ")
        };
        let part = |part: Option<f64>| part.map_or_else(|| "an unknown part".to_owned(), |part| format!("{part:.2}"));
        match self {
            Self::Broken { why } => format!("it cannot be used: {why}"),
            Self::Support { abstained } => format!("too few estimators can be trusted: {}", list(abstained)),
            Self::Disagreement { measure, says } => {
                let says: Vec<String> = says.iter().map(|(who, what)| format!("{who} {what:+.3}")).collect();
                format!("estimators contradict each other on {}: {}", measure.name(), says.join(", "))
            }
            Self::Worse { measure, by, accepted } => {
                format!("{} may be worse by {by:.3}, at most {accepted:.3} is accepted", measure.name())
            }
            Self::Class { class, by } => format!(
                "of the requests {class} at least {:.1} % fewer would be answered within the objective, at most {:.1} % is accepted",
                100.0 * by,
                100.0 * CLASS_WORSE_MAX
            ),
            Self::NotBetter { ends } => {
                let ends: Vec<String> =
                    ends.iter().map(|(measure, end)| format!("{} at least {end:+.3}", measure.name())).collect();
                format!("it is not better with 95 % confidence ({})", ends.join(", "))
            }
            Self::Foresight { found: None } => "nothing was held back to check its facts by".to_owned(),
            Self::Foresight { found: Some(found @ Foresight { over_known_high: Some(high), .. }) }
                if !found.is_news() =>
            {
                format!(
                    "the incumbent knows slots already, and those that were found do not make held-out requests much clearer: deviation up to {high:.3} \
                 of that with its own, less than {NEWS_MAX} is needed"
                )
            }
            Self::Foresight { found: Some(found) } => format!(
                "its facts do not explain held-out requests clearly: deviation {:.3} of that without them (up to {:.3}), {} requests found no slot \
                 free; {} found more than half of them taken and took longer by {} of what it would be with half as many slots, up to {} (at least \
                 {TELLING_MIN} requests of one of the two kinds are needed)",
                found.ratio,
                found.high,
                found.waited,
                found.crowded,
                part(found.rise),
                part(found.rise_high)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::estimate::Diagnostics;

    fn estimate(estimator: &str, measure: Measure, difference: f64, half: f64, trusted: bool) -> Estimate {
        Estimate {
            estimator: estimator.to_owned(),
            measure,
            difference,
            low: difference - half,
            high: difference + half,
            diagnostics: Diagnostics::default(),
            trusted,
            reason: "it says so".to_owned(),
        }
    }

    /// An estimator's opinion: logarithms of mean and tail, errors, goodput.
    fn opinion(estimator: &str, differences: [f64; 4], trusted: bool) -> Vec<Estimate> {
        let half = [0.01, 0.01, 0.0005, 0.001];
        let all = Measure::ALL.into_iter().zip(differences).zip(half);
        all.map(|((measure, difference), half)| estimate(estimator, measure, difference, half, trusted)).collect()
    }

    const BETTER: [f64; 4] = [-0.05, -0.1, 0.0, 0.0];
    /// Many waited, and the slots explain it.
    const WAITS: Foresight = Foresight {
        ratio: 0.8,
        high: 0.85,
        waited: 5_000,
        crowded: 10,
        rise: None,
        rise_high: None,
        over_known_high: None,
    };
    const SURE: Option<Foresight> = Some(WAITS);

    fn refusals(opinions: &[Vec<Estimate>], only_facts: bool, foresight: Option<Foresight>) -> Vec<Refusal> {
        Gate::hear(opinions.concat(), only_facts, foresight).refusals
    }

    #[test]
    fn two_that_can_be_trusted_and_agree_promote() {
        assert_eq!(refusals(&[opinion("a", BETTER, true), opinion("b", BETTER, true)], false, None), []);
    }

    #[test]
    fn one_alone_does_not_nor_does_one_that_is_not_trusted_help() {
        let found = refusals(&[opinion("a", BETTER, true), opinion("b", BETTER, false)], false, None);
        assert!(matches!(&found[..], [Refusal::Support { abstained }] if abstained.len() == 1), "{found:?}");
        assert!(matches!(refusals(&[], false, None)[..], [Refusal::Support { .. }]));
    }

    #[test]
    fn one_alone_that_is_sure_of_harm_is_heard() {
        let found = refusals(&[opinion("twin", [0.05, 0.2, 0.0, 0.0], true)], false, None);
        let tail =
            |refusal: &Refusal| matches!(refusal, Refusal::Worse { measure: Measure::LogP99, by, .. } if *by > 0.18);
        assert!(matches!(found[0], Refusal::Support { .. }) && found.iter().any(tail), "{found:?}");
    }

    #[test]
    fn facts_need_the_twin_and_that_they_are_so() {
        assert_eq!(refusals(&[opinion("twin", BETTER, true)], true, SURE), []);
        // Hardly any waited, but pods that were more than half full took no longer.
        let room = Foresight { high: 1.01, waited: 3, crowded: 900, rise: Some(0.1), rise_high: Some(0.3), ..WAITS };
        assert_eq!(refusals(&[opinion("twin", BETTER, true)], true, Some(room)), []);
        for foresight in [
            None,
            Some(Foresight { ratio: 0.99, high: 1.01, ..WAITS }),
            Some(Foresight { waited: 3, ..WAITS }),
            Some(Foresight { crowded: 100, ..room }),
            Some(Foresight { rise_high: Some(0.6), ..room }),
            Some(Foresight { rise_high: None, ..room }),
            // What was learned live is as good.
            Some(Foresight { over_known_high: Some(0.97), ..WAITS }),
            Some(Foresight { over_known_high: Some(1.02), ..room }),
        ] {
            let found = refusals(&[opinion("twin", BETTER, true)], true, foresight);
            assert!(matches!(found[..], [Refusal::Foresight { .. }]), "{foresight:?}: {found:?}");
        }
        assert!(matches!(refusals(&[opinion("twin", BETTER, false)], true, SURE)[..], [Refusal::Support { .. }]));
        // As much as a twin can be off by, whatever its interval says, which is of chance alone.
        let found = refusals(&[opinion("twin", [-0.02, -0.05, 0.0, 0.0], true)], true, SURE);
        assert!(matches!(found[..], [Refusal::NotBetter { .. }]), "{found:?}");
    }

    #[test]
    fn a_better_tail_does_not_buy_errors_or_lost_requests() {
        for (at, worse) in [(2, 0.01), (3, -0.02)] {
            let mut differences = BETTER;
            differences[at] = worse;
            let found = refusals(&[opinion("a", differences, true), opinion("b", differences, true)], false, None);
            assert!(matches!(found[..], [Refusal::Worse { .. }]), "{found:?}");
        }
    }

    #[test]
    fn what_is_no_better_or_contradicted_stays_out() {
        let same = opinion("a", [0.0; 4], true);
        let found = refusals(&[same.clone(), opinion("b", [0.0; 4], true)], false, None);
        assert!(found.iter().any(|refusal| matches!(refusal, Refusal::NotBetter { .. })), "{found:?}");
        let worse = opinion("b", [0.05, 0.1, 0.0, 0.0], true);
        let found = refusals(&[opinion("a", BETTER, true), worse], false, None);
        assert!(found.iter().any(|refusal| matches!(refusal, Refusal::Disagreement { .. })), "{found:?}");
    }

    #[test]
    fn a_class_that_is_served_clearly_worse_is_not_paid_for_by_the_others() {
        let harmed = |by: f64| {
            let estimates = [opinion("a", BETTER, true), opinion("b", BETTER, true)].concat();
            Gate::hear(estimates, false, None).minding(Some(("GET /report".to_owned(), by))).refusals
        };
        assert_eq!(harmed(0.005), []);
        assert!(matches!(&harmed(0.02)[..], [Refusal::Class { class, .. }] if class == "GET /report"));
    }

    #[test]
    fn numbers_that_are_none_promote_nothing() {
        let nan = opinion("a", [f64::NAN; 4], true);
        assert!(!refusals(&[nan.clone(), nan.clone()], false, None).is_empty());
        assert!(!refusals(&[nan], true, SURE).is_empty());
    }
}
