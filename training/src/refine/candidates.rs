//! What could be better than the incumbent: the facts that the recordings tell of the service, and constants of the rule that suit it, found by trying
//! them in the twin. What is learned from the recorded transitions directly is made in [`offline`](crate::offline).

use std::ops::Range;

use trimtab_model::checkpoint::{Checkpoint, CheckpointError, Manifest};

use super::trial;
use crate::{
    learn::{
        LearnError,
        exam::mean,
        parameters::{Kind, Parameters},
        strategy::{Rates, Strategy},
    },
    simulator::random::{Purpose, stream},
    twin::Twin,
};

/// Streams of noise are their own, apart from those of training.
const NOISE: u64 = 1 << 52;

/// One candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// What it is called in tables and reports.
    pub name: String,
    /// What is new in it, in words.
    pub what: String,
    /// It.
    pub checkpoint: Checkpoint,
    /// Whether nothing in it is new but facts about the service.
    pub only_facts: bool,
    /// Whether it was learned from recorded transitions: then only others can judge it.
    pub learned: bool,
}

impl Candidate {
    /// One whose constants were sought in the twin.
    pub fn tuned(checkpoint: Checkpoint) -> Self {
        let what = "has constants of the rule that were sought in the twin".to_owned();
        Self { name: "tuned".to_owned(), what, checkpoint, only_facts: false, learned: false }
    }

    /// One that somebody else made, and that is to be judged like those that are made here.
    pub fn given(name: String, checkpoint: Checkpoint, incumbent: &Checkpoint) -> Self {
        let without_facts = |checkpoint: &Checkpoint| Manifest { service: None, ..checkpoint.manifest().clone() };
        let same = without_facts(&checkpoint) == without_facts(incumbent);
        let only_facts = same && checkpoint.tensors() == incumbent.tensors();
        let what = "was made elsewhere, and is judged by these recordings".to_owned();
        Self { name, what, checkpoint, only_facts, learned: false }
    }
}

/// The incumbent with what the twin knows of the service; nothing where the pods tell it all themselves, or nothing is known.
///
/// # Errors
/// If the facts do not hold.
pub fn facts(incumbent: &Checkpoint, twin: &Twin) -> Result<Option<Candidate>, CheckpointError> {
    let Some(service) = twin.service().filter(|service| incumbent.manifest().service.as_ref() != Some(service)) else {
        return Ok(None);
    };
    let what = format!(
        "knows how many requests each of {} endpoints serves at once, usually {:.0}",
        service.slots.endpoints.len(),
        service.slots.usual
    );
    let manifest = Manifest { service: Some(service), ..incumbent.manifest().clone() };
    let checkpoint = Checkpoint::new(manifest, incumbent.tensors().clone())?;
    Ok(Some(Candidate { name: "facts".to_owned(), what, checkpoint, only_facts: true, learned: false }))
}

/// How constants are sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Updates.
    pub generations: u64,
    /// Mirrored pairs of candidates in each.
    pub pairs: usize,
    /// Stretches that every candidate runs through.
    pub stretches: usize,
    /// Everything random is drawn from here.
    pub seed: u64,
    /// Simulations at a time.
    pub jobs: usize,
}

/// `start` with constants of the rule that do better in these stretches of the twin.
///
/// # Errors
/// If a checkpoint does not hold.
pub fn tuned(
    start: &Checkpoint,
    twin: &Twin,
    stretches: &[Range<usize>],
    search: &Search,
    mut tell: impl FnMut(u64),
) -> Result<Candidate, LearnError> {
    let parameters = Parameters::new(Kind::Constants, start.manifest(), Some(start))?;
    let mut strategy = Strategy::new(parameters.start(), parameters.sigma(), Rates::noisy(parameters.count()));
    for number in 0..search.generations {
        let mut rng = stream(search.seed, Purpose::Learning, NOISE + number);
        let generation = strategy.draw(search.pairs, &mut rng);
        let candidates = strategy.candidates(&generation);
        let checkpoints = candidates.iter().map(|c| parameters.checkpoint(c)).collect::<Result<Vec<_>, _>>()?;
        let examinees: Vec<&Checkpoint> = std::iter::once(start).chain(&checkpoints).collect();
        let first = number as usize * search.stretches;
        let some: Vec<Range<usize>> =
            (first..first + search.stretches).map(|nth| stretches[nth % stretches.len()].clone()).collect();
        let runs = trial::run(twin, &some, &examinees, search.seed.wrapping_add(1_000 * (1 + number)), search.jobs)?;
        let costs: Vec<f64> = (1..examinees.len()).map(|policy| mean(&runs.costs(policy, 0))).collect();
        strategy.learn(&generation, &costs);
        tell(number + 1);
    }
    Ok(Candidate::tuned(parameters.checkpoint(&strategy.average)?))
}
