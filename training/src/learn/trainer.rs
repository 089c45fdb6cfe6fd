//! Training, one generation at a time: stage by stage from constants to a network, each starting from the best so far, with a
//! validation every few generations that decides what is kept. Everything random is drawn from (seed, generation), and
//! results do not depend on the number of jobs, so a training that was killed and resumed ends at the same bits.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};
use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, Manifest, Training},
};

use super::{
    LearnError,
    course::Course,
    distribution::Survey,
    exam::{Exam, Examinee, mean},
    parallel,
    parameters::{Kind, Parameters},
    state::{State, content},
    strategy::{Rates, Strategy},
};
use crate::{
    scenario::{Family, seeds},
    simulator::{
        random::{Purpose, stream},
        simulate,
    },
};

/// Streams of noise are their own, apart from those of the lessons.
const NOISE: u64 = 1 << 48;
/// Numbers in a row of the history.
const COLUMNS: usize = 6;
/// How a budget is shared between stages: what has more to learn gets more.
const SHARES: [(Kind, f64); 3] = [(Kind::Constants, 0.15), (Kind::Linear, 0.45), (Kind::Network, 0.4)];

/// What training does; part of its state, so that it cannot change when it is resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Everything random is drawn from here.
    pub seed: u64,
    /// Kinds of policies to train, in this order.
    pub stages: Vec<String>,
    /// Updates of all stages together; `None`: until the caller ends a stage, or nothing gets better.
    pub generations: Option<u64>,
    /// Mirrored pairs of candidates in a generation.
    pub pairs: usize,
    /// Scenarios that every candidate of a generation runs on.
    pub lessons: usize,
    /// Measured seconds of a scenario; `None`: as its family says.
    pub seconds: Option<u64>,
    /// Generations from one validation to the next.
    pub validate_every: u64,
    /// Scenarios of a validation.
    pub validation_lessons: usize,
    /// Validations without anything better after which a stage ends.
    pub patience: u64,
    /// Scenarios on which the distribution of the policy's input is measured.
    pub survey_lessons: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            stages: Kind::ALL.map(|kind| kind.name().to_owned()).to_vec(),
            generations: None,
            pairs: 12,
            lessons: 14,
            seconds: Some(12),
            validate_every: 10,
            validation_lessons: 2 * Course::SEED_LESSONS,
            patience: 12,
            survey_lessons: 84,
        }
    }
}

impl Options {
    /// The kinds of its stages.
    ///
    /// # Errors
    /// Names the option that makes no sense.
    pub fn kinds(&self) -> Result<Vec<Kind>, LearnError> {
        let require = |holds: bool, field, value: String, allowed| {
            if holds { Ok(()) } else { Err(LearnError::Option { field, value, allowed }) }
        };
        require(!self.stages.is_empty(), "policy", "empty".into(), "constants, linear, network or all")?;
        require(self.pairs >= 1, "pairs", self.pairs.to_string(), "at least 1")?;
        require(self.lessons >= 1, "lessons", self.lessons.to_string(), "at least 1")?;
        require(self.seconds != Some(0), "seconds", "0".into(), "at least 1")?;
        require(self.validate_every >= 1, "validate-every", self.validate_every.to_string(), "at least 1")?;
        let validation = (1..=1000 * Course::SEED_LESSONS).contains(&self.validation_lessons);
        require(validation, "validation-lessons", self.validation_lessons.to_string(), "from 1 to 84000")?;
        require(self.patience >= 1, "patience", self.patience.to_string(), "at least 1")?;
        require(self.survey_lessons >= 1, "survey-lessons", self.survey_lessons.to_string(), "at least 1")?;
        require(self.generations != Some(0), "generations", "0".into(), "at least 1")?;
        let kind = |name: &String| {
            let unknown = |_| LearnError::Option {
                field: "policy",
                value: name.clone(),
                allowed: "constants, linear or network",
            };
            name.parse().map_err(unknown)
        };
        self.stages.iter().map(kind).collect()
    }
}

/// One generation, as the history has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Generations of all stages until and with this one.
    pub generation: u64,
    /// What was trained.
    pub kind: Kind,
    /// Mean cost of the candidates on the generation's lessons.
    pub candidates: f64,
    /// Cost of the prior on the same lessons.
    pub prior: f64,
    /// Mean of the standard deviations, as multiples of those at the start.
    pub sigma: f64,
    /// Cost of the averaged policy on the validation scenarios, where they were run.
    pub validation: Option<f64>,
}

/// The best of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Its kind.
    pub kind: Kind,
    /// Generations of its stage until it.
    pub generations: u64,
    /// Its mean cost on the validation scenarios.
    pub cost: f64,
    /// It.
    pub checkpoint: Checkpoint,
}

/// What the state says beside its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    options: Options,
    manifest: Manifest,
    rivals: Vec<String>,
    generation: u64,
    stage: usize,
    stage_generation: u64,
    stale_validations: u64,
    /// Kind and generations of the best of each stage, the present one's included.
    bests: Vec<(String, u64)>,
}

/// A training that is going on.
#[derive(Debug)]
pub struct Trainer {
    options: Options,
    kinds: Vec<Kind>,
    jobs: usize,
    /// The normalisation, and what else all policies of this training share.
    manifest: Manifest,
    exam: Exam,
    rivals: Vec<(String, f64)>,
    generation: u64,
    stage: usize,
    stage_generation: u64,
    stale_validations: u64,
    parameters: Parameters,
    strategy: Strategy,
    bests: Vec<Best>,
    history: Vec<Row>,
}

impl Trainer {
    /// Measures what the policy gets to see and what its rivals achieve, and starts the first stage. `created_by` is the
    /// command, for the checkpoints; `tell` hears what is being done.
    ///
    /// # Errors
    /// If an option makes no sense.
    pub fn start(
        options: Options,
        jobs: usize,
        created_by: &str,
        mut tell: impl FnMut(&str),
    ) -> Result<Self, LearnError> {
        let kinds = options.kinds()?;
        tell("measuring what the policy gets to see");
        let survey = survey(&course(&options), options.survey_lessons, jobs)?;
        let (features, context) = survey.normalisations();
        let zero = Checkpoint::zero(0);
        let manifest = Manifest {
            policy_version: "untrained".to_owned(),
            created_by: created_by.to_owned(),
            features,
            context,
            ..zero.manifest().clone()
        };
        tell("measuring what the rivals achieve on the validation scenarios");
        let exam = Exam::new(course(&options).validation(0, options.validation_lessons), jobs)?;
        let rivals = Examinee::rivals();
        let costs = exam.mean_costs(&rivals.clone().map(|(_, rival)| rival), jobs)?;
        let rivals = rivals.iter().zip(costs).map(|((name, _), cost)| ((*name).to_owned(), cost)).collect();
        let parameters = Parameters::new(kinds[0], &manifest, None)?;
        let strategy = strategy(&parameters);
        Ok(Self {
            options,
            kinds,
            jobs,
            manifest,
            exam,
            rivals,
            generation: 0,
            stage: 0,
            stage_generation: 0,
            stale_validations: 0,
            parameters,
            strategy,
            bests: Vec::new(),
            history: Vec::new(),
        })
    }

    /// Whether all stages are over.
    pub fn is_done(&self) -> bool {
        self.stage >= self.kinds.len()
    }

    /// What is being trained; `None` when done.
    pub fn kind(&self) -> Option<Kind> {
        self.kinds.get(self.stage).copied()
    }

    /// Part of the whole budget, 0..=1, after which the present stage should be over.
    pub fn share_until_stage_ends(&self) -> f64 {
        let share = |kind: &Kind| SHARES.iter().find(|(known, _)| known == kind).map_or(0.0, |(_, share)| *share);
        let until = (self.stage + 1).min(self.kinds.len());
        self.kinds[..until].iter().map(share).sum::<f64>() / self.kinds.iter().map(share).sum::<f64>()
    }

    /// What it was told to do.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Mean costs of the rivals on the validation scenarios, the prior first.
    pub fn rivals(&self) -> &[(String, f64)] {
        &self.rivals
    }

    /// The best of each stage so far.
    pub fn bests(&self) -> &[Best] {
        &self.bests
    }

    /// All generations so far.
    pub fn history(&self) -> &[Row] {
        &self.history
    }

    /// The best of all stages, if it is better than the prior.
    pub fn best(&self) -> Option<&Best> {
        let better = self.bests.iter().filter(|best| best.cost < self.prior_cost());
        better.min_by(|a, b| a.cost.total_cmp(&b.cost))
    }

    /// The policy to ship: the best, or the prior with the measured normalisation.
    ///
    /// # Errors
    /// None that a test would not show.
    pub fn winner(&self) -> Result<Checkpoint, LearnError> {
        let (mut manifest, tensors) = match self.best() {
            Some(best) => (best.checkpoint.manifest().clone(), best.checkpoint.tensors().clone()),
            None => {
                let prior = Parameters::new(Kind::Constants, &self.manifest, None)?;
                let prior = prior.checkpoint(&prior.start())?;
                (prior.manifest().clone(), prior.tensors().clone())
            }
        };
        if let Some(training) = &mut manifest.training {
            training.scores = self.rivals.clone();
            training.scores.extend(self.bests.iter().map(|best| (best.kind.name().to_owned(), best.cost)));
        }
        Ok(Checkpoint::new(manifest, tensors)?)
    }

    /// One generation of the present stage; nothing when done.
    ///
    /// # Errors
    /// If a scenario does not hold.
    pub fn step(&mut self) -> Result<Option<Row>, LearnError> {
        let Some(kind) = self.kind() else { return Ok(None) };
        let lessons = course(&self.options).lessons(self.generation, self.options.lessons);
        let exam = Exam::new(lessons, self.jobs)?;
        let mut rng = stream(self.options.seed, Purpose::Learning, NOISE + self.generation);
        let generation = self.strategy.draw(self.options.pairs, &mut rng);
        let mut examinees = vec![Examinee::prior()];
        for candidate in self.strategy.candidates(&generation) {
            examinees.push(Examinee::policy(Policy::new(&self.parameters.checkpoint(&candidate)?)?));
        }
        let costs = exam.mean_costs(&examinees, self.jobs)?;
        self.strategy.learn(&generation, &costs[1..]);
        self.generation += 1;
        self.stage_generation += 1;

        let last = self.stage_generation >= self.stage_generations_max();
        let validate = last || self.stage_generation.is_multiple_of(self.options.validate_every);
        let row = Row {
            generation: self.generation,
            kind,
            candidates: mean(&costs[1..]),
            prior: costs[0],
            sigma: self.sigma_ratio(),
            validation: if validate { Some(self.validate(kind)?) } else { None },
        };
        self.history.push(row);
        if last || self.stale_validations >= self.options.patience {
            self.end_stage()?;
        }
        Ok(Some(row))
    }

    /// Ends the present stage and starts the next.
    ///
    /// # Errors
    /// If a scenario does not hold.
    pub fn end_stage(&mut self) -> Result<(), LearnError> {
        let Some(kind) = self.kind() else { return Ok(()) };
        // What was learned since the last validation counts too.
        let validated = self.history.last().is_some_and(|row| row.kind == kind && row.validation.is_some());
        if self.stage_generation > 0 && !validated {
            let cost = self.validate(kind)?;
            if let Some(row) = self.history.last_mut() {
                row.validation = Some(cost);
            }
        }
        self.stage += 1;
        self.stage_generation = 0;
        self.stale_validations = 0;
        if let Some(kind) = self.kind() {
            self.parameters = Parameters::new(kind, &self.manifest, self.best().map(|best| &best.checkpoint))?;
            self.strategy = strategy(&self.parameters);
        }
        Ok(())
    }

    /// What `--resume` needs.
    pub fn state(&self) -> Result<Vec<u8>, LearnError> {
        let description = Description {
            options: self.options.clone(),
            manifest: self.manifest.clone(),
            rivals: self.rivals.iter().map(|(name, _)| name.clone()).collect(),
            generation: self.generation,
            stage: self.stage,
            stage_generation: self.stage_generation,
            stale_validations: self.stale_validations,
            bests: self.bests.iter().map(|best| (best.kind.name().to_owned(), best.generations)).collect(),
        };
        let mut numbers = BTreeMap::from([
            ("mean".to_owned(), self.strategy.mean.clone()),
            ("sigma".to_owned(), self.strategy.sigma.clone()),
            ("average".to_owned(), self.strategy.average.clone()),
            ("rivals".to_owned(), self.rivals.iter().map(|(_, cost)| *cost).collect()),
            ("costs".to_owned(), self.bests.iter().map(|best| best.cost).collect()),
            ("history".to_owned(), self.history.iter().flat_map(row_numbers).collect()),
        ]);
        for best in &self.bests {
            for (tensor, values) in best.checkpoint.tensors() {
                let name = format!("{}/{tensor}", best.kind);
                numbers.insert(name, values.iter().map(|value| f64::from(*value)).collect());
            }
        }
        State { description, numbers }.to_bytes()
    }

    /// Goes on from the state in the file at `path`. `generations` replaces the budget, if there is one.
    ///
    /// # Errors
    /// Names the file, and says what is wrong with it.
    pub fn resume(path: &Path, generations: Option<u64>, jobs: usize) -> Result<Self, LearnError> {
        let State { description, numbers } = State::<Description>::read(path)?;
        let Description { mut options, manifest, .. } = description;
        options.generations = generations.or(options.generations);
        let kinds = options.kinds()?;
        let get = |name: &str| {
            let missing =
                || content(path, format!("the state of a training without `{name}`; start anew without --resume"));
            numbers.get(name).cloned().ok_or_else(missing)
        };
        let wrong = |what: &str| {
            content(path, format!("the state of another version's training ({what}); start anew without --resume"))
        };

        let costs = get("costs")?;
        let mut bests = Vec::new();
        for ((kind, generations), cost) in description.bests.into_iter().zip(costs) {
            let kind: Kind = kind.parse().map_err(|_| wrong(&kind))?;
            let parameters = Parameters::new(kind, &manifest, None)?;
            let shape = parameters.checkpoint(&parameters.start())?;
            let mut tensors = BTreeMap::new();
            for name in shape.tensors().keys() {
                let values = get(&format!("{kind}/{name}"))?;
                tensors.insert(name.clone(), values.iter().map(|value| *value as f32).collect());
            }
            let training = training(&options, kind, generations);
            let manifest = Manifest {
                policy_version: version(&options, kind, generations),
                training: Some(training),
                ..shape.manifest().clone()
            };
            bests.push(Best { kind, generations, cost, checkpoint: Checkpoint::new(manifest, tensors)? });
        }
        let history =
            get("history")?.chunks_exact(COLUMNS).map(row).collect::<Option<_>>().ok_or_else(|| wrong("history"))?;
        let exam = Exam::new(course(&options).validation(0, options.validation_lessons), jobs)?;
        let mut trainer = Self {
            parameters: Parameters::new(kinds[0], &manifest, None)?,
            strategy: Strategy::new(Vec::new(), Vec::new(), Rates::noisy(1)),
            rivals: description.rivals.into_iter().zip(get("rivals")?).collect(),
            generation: description.generation,
            stage: description.stage,
            stage_generation: description.stage_generation,
            stale_validations: description.stale_validations,
            options,
            kinds,
            jobs,
            manifest,
            exam,
            bests,
            history,
        };
        if let Some(kind) = trainer.kind() {
            let start = trainer.bests.iter().filter(|best| best.kind != kind && best.cost < trainer.prior_cost());
            let start = start.min_by(|a, b| a.cost.total_cmp(&b.cost)).map(|best| &best.checkpoint);
            trainer.parameters = Parameters::new(kind, &trainer.manifest, start)?;
            let (mean, sigma, average) = (get("mean")?, get("sigma")?, get("average")?);
            let count = trainer.parameters.count();
            if [&mean, &sigma, &average].iter().any(|numbers| numbers.len() != count) {
                return Err(wrong(&format!("{} learned numbers, it must be {count}", mean.len())));
            }
            trainer.strategy = strategy(&trainer.parameters).resumed(mean, sigma, average);
        }
        Ok(trainer)
    }

    fn prior_cost(&self) -> f64 {
        self.rivals.first().map_or(f64::INFINITY, |(_, cost)| *cost)
    }

    /// Generations of the present stage if none is to come after its share of the budget.
    fn stage_generations_max(&self) -> u64 {
        let Some(generations) = self.options.generations else { return u64::MAX };
        let until = (self.share_until_stage_ends() * generations as f64).round() as u64;
        // Stages that ended early leave their part to those that follow.
        let before = self.generation - self.stage_generation;
        until.saturating_sub(before).max(1)
    }

    fn sigma_ratio(&self) -> f64 {
        let ratios: Vec<f64> =
            self.strategy.sigma.iter().zip(self.parameters.sigma()).map(|(now, start)| now / start).collect();
        mean(&ratios)
    }

    /// Runs the averaged policy on the validation scenarios and keeps it if it is the best of its stage; its cost.
    fn validate(&mut self, kind: Kind) -> Result<f64, LearnError> {
        let checkpoint = self.parameters.checkpoint(&self.strategy.average)?;
        let examinee = Examinee::policy(Policy::new(&checkpoint)?);
        let cost = self.exam.mean_costs(&[examinee], self.jobs)?.first().copied().unwrap_or(f64::INFINITY);
        let known = self.bests.iter().position(|best| best.kind == kind);
        self.stale_validations += 1;
        if known.is_none_or(|index| cost < self.bests[index].cost) {
            self.stale_validations = 0;
            let generations = self.stage_generation;
            let manifest = Manifest {
                policy_version: version(&self.options, kind, generations),
                training: Some(training(&self.options, kind, generations)),
                ..checkpoint.manifest().clone()
            };
            let checkpoint = Checkpoint::new(manifest, checkpoint.tensors().clone())?;
            let best = Best { kind, generations, cost, checkpoint };
            match known {
                Some(index) => self.bests[index] = best,
                None => self.bests.push(best),
            }
        }
        Ok(cost)
    }
}

fn course(options: &Options) -> Course {
    Course { seed: options.seed, seconds: options.seconds }
}

fn strategy(parameters: &Parameters) -> Strategy {
    Strategy::new(parameters.start(), parameters.sigma(), Rates::noisy(parameters.count()))
}

fn version(options: &Options, kind: Kind, generations: u64) -> String {
    format!("{kind}-{}-{generations}", options.seed)
}

fn training(options: &Options, kind: Kind, generations: u64) -> Training {
    Training {
        kind: kind.name().to_owned(),
        seed: options.seed,
        generations,
        families: Family::TRAINING.map(|family| family.name().to_owned()).to_vec(),
        seeds: (seeds::TRAINING.start, seeds::TRAINING.end - 1),
        scores: Vec::new(),
    }
}

/// What the policy gets to see where the prior decides.
fn survey(course: &Course, lessons: usize, jobs: usize) -> Result<Survey, LearnError> {
    let scenarios = course.survey(lessons).iter().map(|lesson| lesson.scenario()).collect::<Result<Vec<_>, _>>()?;
    let mut survey = Survey::default();
    // In batches: the ticks of all runs at once would take gigabytes.
    for batch in scenarios.chunks(4 * jobs.max(1)) {
        let runs = parallel::map(jobs, batch.len(), |index| {
            let mut fleet = Examinee::prior().fleet(&batch[index]).keeping_ticks();
            simulate(&batch[index], &mut fleet).map(|_| fleet)
        });
        for fleet in runs {
            survey.add(fleet?.ticks());
        }
    }
    Ok(survey)
}

fn row_numbers(row: &Row) -> [f64; COLUMNS] {
    let kind = Kind::ALL.iter().position(|kind| *kind == row.kind).unwrap_or(0);
    [row.generation as f64, kind as f64, row.candidates, row.prior, row.sigma, row.validation.unwrap_or(f64::NAN)]
}

fn row(numbers: &[f64]) -> Option<Row> {
    let [generation, kind, candidates, prior, sigma, validation] = *numbers.first_chunk::<COLUMNS>()?;
    Some(Row {
        generation: generation as u64,
        kind: *Kind::ALL.get(kind as usize)?,
        candidates,
        prior,
        sigma,
        validation: Some(validation).filter(|cost| !cost.is_nan()),
    })
}
