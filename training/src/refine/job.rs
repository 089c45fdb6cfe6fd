//! The whole of a refinement for one service, stage by stage. Everything random comes from one seed, and results do not depend on the number of jobs,
//! so that a job that was killed and started again ends at the same bits.

use serde::{Deserialize, Serialize};
use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, CheckpointError},
    observation::EndpointKey,
    recording::{RequestRow, TickRow},
};

use super::{
    Gate, Inventory, audit,
    candidates::{self, Candidate, Search},
    foresight::Foresight,
    trial::{self, Checked},
};
use crate::{
    learn::LearnError,
    offline::{
        dataset::Dataset,
        estimate::Evaluation,
        learner::{self, Knobs, Learned, Method, OfflineError},
        outcome::Measure,
    },
    twin::{Fidelity, Trace, Twin, TwinError},
};

/// Ticks at the beginning that everything is fitted to; the rest is for choosing and judging.
const FITTED_SHARE: f64 = 0.6;
/// Ticks that are learned from, or held out to judge what was learned, as a whole: two minutes, a dozen draws of noise.
const HELD_OUT_BLOCK: usize = 240;
/// Every third such block is held out. A policy that was fitted to the noise of some ticks looks better in those than it is.
const HELD_OUT_NTH: usize = 3;
/// Stretches of the held-out part in which candidates are judged.
const JUDGED_MAX: usize = 24;
/// Measured seconds of a stretch in which constants are sought.
const SEARCH_STRETCH_S: u64 = 15;

/// What a refinement does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// Everything random is drawn from here.
    pub seed: u64,
    /// Updates of the search for constants; 0: none is made.
    pub generations: u64,
    /// Mirrored pairs of candidates in each.
    pub pairs: usize,
    /// Stretches that each runs through.
    pub stretches: usize,
    /// Whether candidates are learned from recorded transitions where there was exploration.
    pub offline: bool,
    /// Measured seconds of a stretch of the held-out part. Five stretches at least are needed whatever their length: with shorter ones a shorter recording
    /// will do, each tells less, and intervals become wider.
    pub stretch_s: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, generations: 8, pairs: 4, stretches: 4, offline: true, stretch_s: 30 }
    }
}

/// Why a refinement came to no end.
#[derive(Debug, thiserror::Error)]
pub enum RefineError {
    /// There can be no twin.
    #[error(transparent)]
    Twin(#[from] TwinError),
    /// Something that was learned or simulated does not hold.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// A policy cannot be written down.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// A stage of the job.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// The twin is calibrated.
    Calibrating,
    /// Constants are sought: updates so far, of so many.
    Searching(u64, u64),
    /// This is what was found: to be kept for a job that is started again.
    Found(Box<Checkpoint>),
    /// Candidates are learned from transitions.
    Learning,
    /// None were, for this reason; the others are judged all the same.
    NotLearned(String),
    /// Candidates are judged: so many so far, of so many.
    Judging(usize, usize),
}

/// What came of one candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// It.
    pub candidate: Candidate,
    /// What the gate found.
    pub gate: Gate,
}

/// What came of it all.
#[derive(Debug, Clone, PartialEq)]
pub struct Refined {
    /// What the recordings have.
    pub inventory: Inventory,
    /// The twin, as it is of the fitted part.
    pub twin: Twin,
    /// How well it does on the rest.
    pub fidelity: Fidelity,
    /// The same in short.
    pub checked: Checked,
    /// All candidates, in the order in which they were made.
    pub judged: Vec<Judged>,
    /// Stretches in which they were judged.
    pub stretches: usize,
    /// Place of the one that is promoted; nothing: the incumbent stays.
    pub promoted: Option<usize>,
}

/// One refinement.
#[derive(Debug)]
pub struct Job<'a> {
    /// The service's rows, others' too.
    pub ticks: &'a [TickRow],
    /// See `ticks`.
    pub requests: &'a [RequestRow],
    /// What is known of the service's recordings.
    pub inventory: Inventory,
    /// The policy that is to be bettered; it must be the one that was in force.
    pub incumbent: &'a Checkpoint,
    /// What it does.
    pub options: Options,
    /// Simulations at a time.
    pub jobs: usize,
    /// What the search of the same job found when it ran before; nothing: it searches.
    pub found: Option<Checkpoint>,
    /// Policies that somebody else made, by name: they are judged as well.
    pub given: Vec<(String, Checkpoint)>,
}

impl Job<'_> {
    /// Runs it. `tell` hears how far it is.
    ///
    /// # Errors
    /// If the recordings hold too little, or a checkpoint does not hold.
    pub fn run(&self, mut tell: impl FnMut(Stage)) -> Result<Refined, RefineError> {
        tell(Stage::Calibrating);
        let seed = self.options.seed;
        let trace = Trace::of(&self.inventory.backend, self.ticks, self.requests)?;
        let fitted = (trace.ticks.len() as f64 * FITTED_SHARE) as usize;
        let twin = Twin::calibrate(&trace.part(0..fitted), self.incumbent, seed, self.jobs)?;
        let later = twin.at(trace.part(fitted..trace.ticks.len()));
        let mut judged_on = later.stretches(self.options.stretch_s);
        let step = judged_on.len().div_ceil(JUDGED_MAX).max(1);
        judged_on = judged_on.into_iter().step_by(step).collect();
        let fidelity = Fidelity::of(&later, &judged_on, self.incumbent, seed, self.jobs)?;
        let checked = Checked::from(&fidelity);

        let mut candidates: Vec<Candidate> = candidates::facts(self.incumbent, &twin)?.into_iter().collect();
        let start = candidates.first().map_or(self.incumbent, |facts| &facts.checkpoint).clone();
        let searched_in = twin.stretches(SEARCH_STRETCH_S);
        if self.options.generations > 0 && !searched_in.is_empty() {
            let Options { generations, pairs, stretches, .. } = self.options;
            let search = Search { generations, pairs, stretches, seed, jobs: self.jobs };
            let progress = |done| tell(Stage::Searching(done, generations));
            let tuned = match &self.found {
                Some(found) => Candidate::tuned(found.clone()),
                None => candidates::tuned(&start, &twin, &searched_in, &search, progress)?,
            };
            tell(Stage::Found(Box::new(tuned.checkpoint.clone())));
            candidates.push(tuned);
        }
        let own: Vec<TickRow> =
            self.ticks.iter().filter(|row| row.backend == self.inventory.backend).cloned().collect();
        let dataset = Dataset::new(&own, self.incumbent.manifest().service.as_ref());
        let (to_learn_from, held_out) = dataset.split(HELD_OUT_BLOCK, HELD_OUT_NTH);
        if self.options.offline && self.inventory.exploration_share > 0.0 {
            tell(Stage::Learning);
            match self.learned(&to_learn_from) {
                Ok(learned) => candidates.extend(learned),
                Err(error) => tell(Stage::NotLearned(error.to_string())),
            }
        }

        let given = self.given.iter().cloned();
        candidates.extend(given.map(|(name, checkpoint)| Candidate::given(name, checkpoint, self.incumbent)));

        let behaviour = Policy::new(self.incumbent)?;
        let evaluation = Evaluation::new(&dataset, &behaviour, seed);
        let learned = candidates.iter().any(|candidate| candidate.learned);
        let held_out = learned.then(|| Evaluation::new(&held_out, &behaviour, seed));
        let contradiction = audit::contradiction(&self.inventory.backend, &own, self.requests);
        let foresight = Foresight::of(&twin, &later.trace, &self.known_slots(&later));
        let own_facts = twin.service();
        let mut judged: Vec<Judged> = Vec::new();
        for (number, candidate) in candidates.iter().enumerate() {
            tell(Stage::Judging(number, candidates.len()));
            let runs = trial::run(&later, &judged_on, &[self.incumbent, &candidate.checkpoint], seed, self.jobs)?;
            let mut estimates = runs.estimates(1, 0, &checked);
            let new_facts = candidate.checkpoint.manifest().service != self.incumbent.manifest().service;
            let evaluation = held_out.as_ref().filter(|_| candidate.learned).unwrap_or(&evaluation);
            estimates.extend(evaluation.compare(&Policy::new(&candidate.checkpoint)?, &behaviour).into_iter().map(
                |mut e| {
                    if new_facts && e.trusted {
                        e.trusted = false;
                        e.reason = "it weighs recorded actions, and new facts change what follows from them".to_owned();
                    }
                    e
                },
            ));
            if let Some(why) = &contradiction {
                for estimate in &mut estimates {
                    (estimate.trusted, estimate.reason) = (false, why.clone());
                }
            }
            // It is about the twin's own facts: others', of a policy that was made elsewhere, are not confirmed by it.
            let confirmed = foresight.filter(|_| new_facts && candidate.checkpoint.manifest().service == own_facts);
            let harmed = runs.class_harmed(1, 0).filter(|_| checked.objection().is_none());
            let harmed = harmed.map(|(class, by)| (self.class_name(trace.classes.get(class).copied().flatten()), by));
            let gate = Gate::hear(estimates, candidate.only_facts, confirmed).minding(harmed);
            judged.push(Judged { candidate: candidate.clone(), gate });
        }
        tell(Stage::Judging(candidates.len(), candidates.len()));
        let promoted = best(&judged);
        Ok(Refined {
            inventory: self.inventory.clone(),
            twin,
            fidelity,
            checked,
            judged,
            stretches: judged_on.len(),
            promoted,
        })
    }

    /// The slots that the incumbent knew when these ticks began: facts, or what was learned live.
    fn known_slots(&self, later: &Twin) -> Vec<Option<f64>> {
        let facts = self.incumbent.manifest().service.as_ref();
        let fact = |key: u64| facts.and_then(|service| service.slots(&self.inventory.backend, EndpointKey(key)));
        let keys = later.trace.keys.iter();
        keys.zip(later.learned(&(0..1))).map(|(key, learned)| fact(*key).or(learned.map(|known| known.slots))).collect()
    }

    /// What requests of a class are called.
    fn class_name(&self, key: Option<u64>) -> String {
        let named = |row: &&RequestRow| row.class_key == key && row.class_name.is_some();
        let row = key.and_then(|_| self.requests.iter().find(named));
        row.and_then(|row| row.class_name.clone()).unwrap_or_else(|| "of no class".to_owned())
    }

    /// What the offline learners make of the recorded transitions.
    fn learned(&self, dataset: &Dataset) -> Result<Vec<Candidate>, OfflineError> {
        let methods = [(Method::Awac, "advantage"), (Method::Td3Bc, "pessimist")];
        methods
            .into_iter()
            .map(|(method, name)| {
                let knobs = Knobs { method, seed: self.options.seed, ..Knobs::default() };
                let Learned { checkpoint, report } = learner::learn(dataset, self.incumbent, &knobs)?;
                let what = format!(
                    "moves weights by {:.1} % on average, as learned from {} recorded transitions",
                    100.0 * report.moved,
                    report.transitions
                );
                Ok(Candidate { name: name.to_owned(), what, checkpoint, only_facts: false, learned: true })
            })
            .collect()
    }
}

/// The promoted candidate with the surest gain: the one whose 99th percentile is lower by most, at the near end of its interval.
fn best(judged: &[Judged]) -> Option<usize> {
    let gain = |gate: &Gate| {
        let tail = gate.estimates.iter().filter(|e| e.trusted && e.measure == Measure::LogP99);
        tail.map(|e| e.high).fold(f64::NEG_INFINITY, f64::max)
    };
    let promoted = judged.iter().enumerate().filter(|(_, judged)| judged.gate.promotes());
    promoted.min_by(|a, b| gain(&a.1.gate).total_cmp(&gain(&b.1.gate))).map(|(place, _)| place)
}
