//! All estimators together: those that are trusted vote, each with the weight of its precision, and where they disagree by more than their intervals
//! explain the interval grows (random effects, DerSimonian & Laird 1986). With fewer than two voters there is no verdict.

use serde::{Deserialize, Serialize};

use super::{estimate::Estimate, outcome::Measure};

/// Votes below which there is no verdict.
const VOTERS_MIN: usize = 2;
/// Normal quantile of 97.5 %.
const Z: f64 = 1.959_963_985;

/// What the vote says of one measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vote {
    /// Of what.
    pub measure: Measure,
    /// Candidate less the other, in the measure's unit; `None` where nobody votes.
    pub difference: Option<f64>,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Who voted.
    pub voters: Vec<String>,
    /// Who did not, and why.
    pub abstained: Vec<(String, String)>,
    /// What follows.
    pub verdict: Verdict,
}

/// What follows from a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Better, with 95 % confidence.
    Better,
    /// Worse, with 95 % confidence.
    Worse,
    /// The interval holds both.
    Undecided,
    /// Fewer than two estimators can be trusted.
    NotEnoughVoters,
}

impl Vote {
    /// On one measure, of all its estimates, whoever made them: those of other measures are passed over.
    pub fn of(measure: Measure, estimates: &[Estimate]) -> Self {
        let of_measure = || estimates.iter().filter(move |estimate| estimate.measure == measure);
        let usable = |estimate: &&Estimate| {
            estimate.trusted && [estimate.difference, estimate.low, estimate.high].iter().all(|x| x.is_finite())
        };
        let voters: Vec<&Estimate> = of_measure().filter(usable).collect();
        let abstained = of_measure().filter(|estimate| !usable(estimate)).map(|estimate| {
            let reason = if estimate.trusted { "its interval has no ends" } else { &*estimate.reason };
            (estimate.estimator.clone(), reason.to_owned())
        });
        let abstained = abstained.collect();
        let combined = combine(&voters, model_error(measure));
        let (difference, low, high) = match combined {
            Some((value, error)) => (Some(value), value - Z * error, value + Z * error),
            None => (None, f64::NEG_INFINITY, f64::INFINITY),
        };
        let verdict = if voters.len() < VOTERS_MIN {
            Verdict::NotEnoughVoters
        } else if low > 0.0 {
            if measure.is_cost() { Verdict::Worse } else { Verdict::Better }
        } else if high < 0.0 {
            if measure.is_cost() { Verdict::Better } else { Verdict::Worse }
        } else {
            Verdict::Undecided
        };
        let voters = voters.iter().map(|estimate| estimate.estimator.clone()).collect();
        Self { measure, difference, low, high, voters, abstained, verdict }
    }

    /// On every measure.
    pub fn all(estimates: &[Estimate]) -> Vec<Self> {
        Measure::ALL.iter().map(|measure| Self::of(*measure, estimates)).collect()
    }
}

/// What estimates are off by beyond what their intervals say, as a standard error: those hold chance only, not that a policy changes what it sees. Found in
/// development worlds (`cargo run --release --workspace --example estimators -- --dev`).
const fn model_error(measure: Measure) -> f64 {
    match measure {
        Measure::LogMean => 0.01,
        Measure::LogP99 => 0.03,
        Measure::Errors => 0.0005,
        Measure::Goodput => 0.002,
    }
}

/// The weighted mean and its standard error; `None` of none.
fn combine(voters: &[&Estimate], model_error: f64) -> Option<(f64, f64)> {
    let variance = |voter: &&Estimate| ((voter.high - voter.low) / (2.0 * Z)).powi(2) + model_error * model_error;
    let variances: Vec<f64> = voters.iter().map(variance).collect();
    let mean = |between: f64| {
        let weights = variances.iter().map(|variance| 1.0 / (variance + between));
        let total: f64 = weights.clone().sum();
        let mean = voters.iter().zip(weights).map(|(voter, weight)| voter.difference * weight).sum::<f64>() / total;
        (mean, total)
    };
    if voters.is_empty() {
        return None;
    }
    let (fixed, total) = mean(0.0);
    let spread: f64 =
        voters.iter().zip(&variances).map(|(voter, variance)| (voter.difference - fixed).powi(2) / variance).sum();
    let squares: f64 = variances.iter().map(|variance| variance.powi(-2)).sum();
    let freedom = voters.len() as f64 - 1.0;
    let between = if freedom > 0.0 { ((spread - freedom) / (total - squares / total)).max(0.0) } else { 0.0 };
    let (value, total) = mean(between);
    // All estimates but a twin's rest on the same recording: their errors do not cancel, so no combination is surer than its surest voter.
    let surest = variances.iter().copied().fold(f64::INFINITY, f64::min);
    Some((value, (1.0 / total).max(surest).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::estimate::Diagnostics;

    fn estimate(difference: f64, half: f64, trusted: bool) -> Estimate {
        Estimate {
            estimator: format!("one at {difference}"),
            measure: Measure::LogMean,
            difference,
            low: difference - half,
            high: difference + half,
            diagnostics: Diagnostics::default(),
            trusted,
            reason: "it says so".to_owned(),
        }
    }

    fn check(estimates: &[Estimate], verdict: Verdict) -> Vote {
        let vote = Vote::of(Measure::LogMean, estimates);
        assert_eq!(vote.verdict, verdict, "{vote:?}");
        assert!(vote.difference.is_none_or(|difference| vote.low <= difference && difference <= vote.high), "{vote:?}");
        vote
    }

    #[test]
    fn two_that_agree_decide_and_one_alone_does_not() {
        check(&[estimate(-0.1, 0.02, true), estimate(-0.11, 0.03, true)], Verdict::Better);
        check(&[estimate(0.1, 0.02, true), estimate(0.11, 0.03, true)], Verdict::Worse);
        check(&[estimate(0.1, 0.2, true), estimate(0.0, 0.3, true)], Verdict::Undecided);
        check(&[estimate(-0.1, 0.02, true)], Verdict::NotEnoughVoters);
        check(&[], Verdict::NotEnoughVoters);
    }

    #[test]
    fn who_is_not_trusted_does_not_vote_and_is_named_with_the_reason() {
        let vote = check(
            &[estimate(-0.1, 0.02, true), estimate(-0.12, 0.02, true), estimate(0.9, 0.01, false)],
            Verdict::Better,
        );
        assert_eq!(vote.abstained, [("one at 0.9".to_owned(), "it says so".to_owned())]);
        let unbounded = Estimate { low: f64::NEG_INFINITY, ..estimate(0.9, 0.01, true) };
        let vote = check(&[estimate(-0.1, 0.02, true), unbounded], Verdict::NotEnoughVoters);
        assert_eq!(vote.abstained[0].1, "its interval has no ends");
        let nan = Estimate { difference: f64::NAN, ..estimate(0.9, 0.01, true) };
        check(&[nan], Verdict::NotEnoughVoters);
    }

    #[test]
    fn those_that_contradict_each_other_decide_nothing() {
        let vote = check(&[estimate(-0.1, 0.01, true), estimate(0.1, 0.01, true)], Verdict::Undecided);
        assert!(vote.high - vote.low > 0.15, "{vote:?}");
    }

    #[test]
    fn more_goodput_is_better() {
        let goodput = |difference| Estimate { measure: Measure::Goodput, ..estimate(difference, 0.01, true) };
        let vote = Vote::of(Measure::Goodput, &[goodput(0.05), goodput(0.06)]);
        assert_eq!(vote.verdict, Verdict::Better);
        assert_eq!(Vote::all(&[]).len(), Measure::ALL.len());
    }
}
