//! The rollout of one backend, tick by tick: who decides next, what is learned from what came of it, and what should be written into the log.
//!
//! Towards risk it goes by the log only: a stage begins when the log says so. Towards safety it goes at once: a candidate that is to be
//! rolled back decides nothing more, whatever the log, the store or the network do. After a restart, or with another leader, the log says
//! where to go on; what was learned within the stage is learned anew, beginning with the shortest visits.

use std::collections::BTreeSet;

use rand::Rng;
use serde_json::{Value, json};

use super::arms::Arm;
use super::betting::Bet;
use super::blocks::{Block, Turns};
use super::event::{Choice, Stage, What, Why};
use super::outcome::Interval;
use super::rails::{Rails, Trip};
use super::settings::RolloutSettings;
use super::state::{BackendState, Trial};

/// Ticks after a visit that are still held against it: answers to what it routed come late.
const ANSWERABLE: u32 = 4;
/// Ticks that tell, after a rail has tripped beyond 5 %, whether it was the candidate: it is as before without it, or it is not.
const RECOVERED: usize = 4;
/// Ticks after which what still goes on was not the candidate.
const DISTURBED: usize = 10;
/// Ticks that a first look waits at most for the service to be calm.
const HOLD_TICKS: u32 = 60;
/// Ticks in the shadow that tell anything.
const SHADOW_TICKS_MIN: u64 = 20;
/// Faults in the shadow that are enough.
const FAULTS_MAX: u64 = 5;
/// Ticks after which the log is asked again for what it has not taken.
const ASK_AGAIN: u32 = 20;
/// Blocks in which who is in force is asked what the matter is.
const INQUIRY_BLOCKS: u64 = 30;
/// Blocks of the usual kind between two inquiries.
const QUIET_BLOCKS: u64 = 8;
/// An alarm without cause comes once in so many blocks at most: 1/α of the watch that never ends.
const WATCH_MISTAKE: f64 = 1e-3;

/// How a candidate did in the shadow at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// It proposed something that could be applied.
    Fit,
    /// Its input was unlike anything that it was trained on.
    Unfamiliar,
    /// It failed, or proposed what is no number.
    Fault,
}

/// What to do after a tick.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// Who decides now.
    pub arm: Arm,
    /// Whether the arm only takes a turn, and another one is in force.
    pub visit: bool,
    /// Whether that ends in the middle of the tick: what was applied before is to be applied again then.
    pub brief: bool,
    /// What should be written into the log, with its evidence.
    pub ask: Option<(What, Value)>,
}

/// For people.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// Blocks that were compared in this stage.
    pub blocks: u64,
    /// Mean difference of log cost, candidate less incumbent (or in force less fallback), in this stage.
    pub difference: Option<f64>,
    /// The last thing that happened, in words.
    pub verdict: String,
}

/// The rollout of one backend.
#[derive(Debug, Clone)]
pub struct Rollout {
    settings: RolloutSettings,
    state: BackendState,
    rails: Rails,
    arm: Arm,
    /// Whether that was a visit.
    visiting: bool,
    block: Option<Block>,
    /// Whether a visit that is due is left out, as the service is not as usual after the one before.
    cut_short: bool,
    /// Ticks that the next half has been waiting for the service to be calm; 0: it is not waiting.
    holding: u32,
    /// What came of the interval that ended last.
    latest: Interval,
    /// What came of the present block, on each side.
    sides: [Vec<Interval>; 2],
    /// What came since the last visit began, while it is held against it.
    visit: Vec<Interval>,
    /// Ticks since it ended.
    visit_over: u32,
    /// A rail has tripped beyond 5 %.
    suspended: Option<Suspended>,
    /// Of this stage.
    blocks: u64,
    /// Blocks after which the first looks at 5 % were enough.
    peeked: Option<u64>,
    not_worse: Bet,
    /// That it harms a smaller part of what it decides than it may at the next step.
    harmless: Bet,
    better: Bet,
    /// Of the whole trial.
    worse: Bet,
    /// In force: that the fallback is better; for ever, and in an inquiry.
    watch: Bet,
    inquiry: Option<Bet>,
    inquiry_blocks: u64,
    quiet_blocks: u64,
    shadow: Shadow,
    exposed_ticks: u64,
    first_exposed_ms: Option<i64>,
    /// What was asked for, and how long ago.
    asked: Option<(What, Value, u32)>,
    /// Versions that are out whatever the log says yet.
    out: BTreeSet<String>,
    verdict: String,
}

/// A rail has tripped, and what comes without the candidate will tell whether that was its doing.
#[derive(Debug, Clone)]
struct Suspended {
    trip: Trip,
    /// What came since.
    since: Vec<Interval>,
    /// Whether it was not: then the candidate waits until the service is as it was.
    acquitted: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Shadow {
    ticks: u64,
    faults: u64,
    unfamiliar: u64,
}

impl Rollout {
    /// Of a backend that was never seen.
    pub fn new(settings: RolloutSettings) -> Self {
        Self {
            settings,
            state: BackendState::default(),
            rails: Rails::default(),
            arm: Arm::Incumbent,
            visiting: false,
            block: None,
            cut_short: false,
            holding: 0,
            latest: Interval::default(),
            sides: Default::default(),
            visit: Vec::new(),
            visit_over: 0,
            suspended: None,
            blocks: 0,
            peeked: None,
            not_worse: Bet::that_more_than(0.0),
            harmless: Bet::that_more_than(0.0),
            better: Bet::that_more_than(0.0),
            worse: Bet::that_more_than(0.0),
            watch: Bet::that_more_than(0.0),
            inquiry: None,
            inquiry_blocks: 0,
            quiet_blocks: QUIET_BLOCKS,
            shadow: Shadow::default(),
            exposed_ticks: 0,
            first_exposed_ms: None,
            asked: None,
            out: BTreeSet::new(),
            verdict: String::new(),
        }
    }

    /// Takes over what the log says.
    pub fn follow(&mut self, state: &BackendState) {
        if *state == self.state {
            return;
        }
        let (before, after) = (self.state.trial.clone(), state.trial.clone());
        if state.in_force() != self.state.in_force() {
            self.rails.clear();
            self.watch = Bet::that_more_than(0.0);
            self.inquiry = None;
            self.quiet_blocks = QUIET_BLOCKS;
            self.visit.clear();
            self.end_block();
        }
        if before != after {
            let version = |trial: &Option<Trial>| trial.as_ref().map(|trial| trial.version.clone());
            let fresh =
                version(&after) != version(&before) || after.as_ref().is_some_and(|trial| trial.stage == Stage::Shadow);
            if fresh {
                self.worse = Bet::that_more_than(0.0);
                self.shadow = Shadow::default();
                self.exposed_ticks = 0;
                self.first_exposed_ms = None;
                // A candidate that the log names anew gets its chance anew.
                if let Some(trial) = &after {
                    self.out.remove(&trial.version);
                    self.asked.take_if(|(what, ..)| what.version() == Some(&trial.version));
                }
            }
            self.blocks = 0;
            let margin = after.as_ref().and_then(|trial| self.settings.margin(trial.stage)).unwrap_or(0.0);
            // "Not worse by the margin" is the same as "better by more than minus the margin".
            self.not_worse = Bet::that_more_than(-margin);
            self.peeked = None;
            self.harmless = self.harmless_at(match after.as_ref().map(|trial| trial.stage) {
                // First looks come before the 5 %.
                Some(Stage::Shadow | Stage::Five) | None => Stage::Five,
                Some(stage) => stage.next().unwrap_or(Stage::Full),
            });
            self.better = Bet::that_more_than(0.0);
            self.end_block();
            self.verdict = match (&after, before) {
                (Some(trial), _) => format!("{} entered stage {}", trial.version, trial.stage),
                (None, Some(Trial { version, .. })) => match state.rolled_back.get(&version) {
                    Some(out) => format!("{version} was rolled back ({:?}): {}", out.why, out.detail),
                    None => format!("{version} is {}", state.standing(&version)),
                },
                (None, None) => String::new(),
            };
        }
        let standing = |version: &str| matches!(state.standing(version), "on trial" | "in force");
        self.asked.take_if(|(what, ..)| !matches!(what, What::RolledBack { version, .. } if standing(version)));
        self.out.retain(|version| standing(version));
        self.state = state.clone();
    }

    /// Has the candidate rolled back for a reason from outside; what to write into the log, if it is due.
    pub fn give_up(&mut self, why: Why, detail: String) -> Option<(What, Value)> {
        let (what, evidence) = self.roll_back(why, detail, Value::Null)?;
        self.settle(what, evidence);
        self.asking()
    }

    /// What the log says.
    pub fn state(&self) -> &BackendState {
        &self.state
    }

    /// The version on trial, unless it is out already.
    pub fn candidate(&self) -> Option<&str> {
        let trial = self.state.trial.as_ref().filter(|_| self.state.pinned.is_none())?;
        (!self.out.contains(&trial.version)).then_some(trial.version.as_str())
    }

    /// What is in force but for visits, whatever the log says yet.
    pub fn in_force(&self) -> &Choice {
        match self.state.in_force() {
            Choice::Version(version) if self.state.pinned.is_none() && self.out.contains(version) => &Choice::Fallback,
            choice => choice,
        }
    }

    /// Whether the candidate is only looked at.
    pub fn in_shadow(&self) -> bool {
        self.candidate().is_some() && self.state.trial.as_ref().is_some_and(|trial| trial.stage == Stage::Shadow)
    }

    /// Whether the candidate has decided anything, and since when.
    pub fn first_exposed_ms(&self) -> Option<i64> {
        self.first_exposed_ms
    }

    /// For people.
    pub fn progress(&self) -> Progress {
        let bet = if self.state.trial.is_some() { &self.better } else { &self.watch };
        let moments = bet.moments();
        let sign = if self.state.trial.is_some() { -1.0 } else { 1.0 };
        Progress {
            blocks: self.blocks,
            difference: (moments.count > 0).then(|| sign * moments.mean()),
            verdict: self.verdict.clone(),
        }
    }

    /// One tick: `outcome` is what came of the interval that ended. `fitness` is how the candidate does in the shadow. `applies`: whether the
    /// candidate could decide, and would be heard.
    pub fn tick(
        &mut self,
        outcome: &Interval,
        fitness: Option<Fitness>,
        applies: bool,
        now_ms: i64,
        rng: &mut impl Rng,
    ) -> Step {
        let mut ask = self.take_in(outcome);
        if ask.is_none() {
            ask = self.look_at(fitness, now_ms);
        }
        if let Some((what, evidence)) = ask {
            self.settle(what, evidence);
        }
        self.arm = self.next_arm(applies, now_ms, rng);
        self.visiting = self.is_visit();
        let brief = self.visiting && self.block.is_some_and(|block| block.turn().brief);
        Step { arm: self.arm, visit: self.visiting, brief, ask: self.asking() }
    }

    /// Whether the arm that decides is not the one in force.
    fn is_visit(&self) -> bool {
        match self.arm {
            Arm::Incumbent => false,
            Arm::Candidate => true,
            Arm::Fallback => *self.in_force() != Choice::Fallback,
        }
    }

    /// Credits what came of the interval, and judges it.
    fn take_in(&mut self, outcome: &Interval) -> Option<(What, Value)> {
        self.latest = *outcome;
        if self.suspended.is_some() {
            return self.wait(outcome);
        }
        let turn = self.block.map(|block| block.turn());
        let visiting = self.visiting;
        self.visit_over = if visiting { 0 } else { self.visit_over.saturating_add(1) };
        if visiting || (!self.visit.is_empty() && self.visit_over <= ANSWERABLE) {
            self.visit.push(*outcome);
        } else {
            self.visit.clear();
        }
        if let Some(side) = turn.and_then(|turn| turn.compared).filter(|_| self.holding == 0) {
            self.sides[side as usize].push(*outcome);
        }
        if self.trying() {
            // Who is in force may stumble as it takes over again. After the first looks, which are too short for that, that is not held
            // against the candidate: half of what is judged must be its own, or all of its visit among it.
            let peeking = self.stage() == Some(Stage::Five) && self.peeked.is_none();
            let own = (self.visit.len() - self.visit_over as usize).min(self.visit_over.max(1) as usize);
            let ticks_min = if peeking { 1 } else { self.visit_over as usize + own };
            if let Some(trip) = self.rails.judge(&self.visit, ticks_min) {
                self.end_block();
                self.visit.clear();
                if self.stage() == Some(Stage::Five) {
                    return self.trip(&trip);
                }
                self.suspended = Some(Suspended { trip, since: Vec::new(), acquitted: false });
                return None;
            }
        } else if self.watching() && self.inquiry.is_none() && !visiting && self.quiet_blocks >= QUIET_BLOCKS {
            self.inquire(outcome);
        }
        if self.visit.is_empty() {
            self.rails.add(*outcome);
        }
        let over = self.holding == 0 && self.block.as_mut().is_some_and(Block::pass);
        if over { self.compare() } else { None }
    }

    /// What came of a tick without the candidate, after a rail has tripped.
    fn wait(&mut self, outcome: &Interval) -> Option<(What, Value)> {
        let Suspended { trip, since, acquitted } = self.suspended.as_mut()?;
        since.push(*outcome);
        let last = &since[since.len().saturating_sub(if *acquitted { RECOVERED } else { 2 })..];
        let still = self.rails.judge(last, last.len()).is_some();
        if *acquitted {
            // This is what the service is like now.
            self.rails.add(*outcome);
            if !still {
                self.suspended = None;
            }
            return None;
        }
        match since.len() {
            RECOVERED.. if !still => {
                let trip = trip.clone();
                self.suspended = None;
                self.trip(&trip)
            }
            DISTURBED.. => {
                self.verdict = format!("{}, and went on without it: not its doing", trip.detail());
                *acquitted = true;
                since.clear();
                None
            }
            _ => None,
        }
    }

    /// Something stands out while a version is in force: the fallback is asked at once, in short turns.
    fn inquire(&mut self, outcome: &Interval) {
        if let Some(trip) = self.rails.judge(&[*outcome], 1) {
            self.verdict = format!("{}: the fallback takes turns", trip.detail());
            self.inquiry = Some(Bet::that_more_than(0.0));
            self.inquiry_blocks = 0;
            self.end_block();
        }
    }

    fn trip(&mut self, trip: &Trip) -> Option<(What, Value)> {
        self.roll_back(trip.why, trip.detail(), trip.evidence())
    }

    fn roll_back(&self, why: Why, detail: String, evidence: Value) -> Option<(What, Value)> {
        let version = self.candidate()?.to_owned();
        Some((What::RolledBack { version, why, detail }, self.with_exposure(evidence)))
    }

    fn with_exposure(&self, evidence: Value) -> Value {
        json!({
            "stage": self.stage(),
            "exposed_ticks": self.exposed_ticks,
            "first_exposed_ms": self.first_exposed_ms,
            "finding": evidence,
        })
    }

    /// A block is over: its two sides are compared.
    fn compare(&mut self) -> Option<(What, Value)> {
        let [visitor, host] = [0, 1].map(|side| Interval::together(&self.sides[side]));
        let turns = self.block.map(|block| block.turns());
        self.end_block();
        let dilution = turns.map_or(1.0, |turns| turns.dilution());
        let harm = dilution * (visitor.lost() - host.lost());
        let (visitor, host) = visitor.cost().zip(host.cost())?;
        self.blocks += 1;
        if !self.trying() {
            return self.compare_with_fallback(host - visitor);
        }
        let difference = (visitor - host).clamp(-1.0, 1.0);
        self.worse.add(difference);
        self.not_worse.add(-difference);
        self.better.add(-difference);
        self.harmless.add(-harm);
        let version = self.candidate()?.to_owned();
        let test = json!({
            "blocks": self.blocks,
            "log_cost_difference": -self.better.moments().mean(),
            "deviation": self.better.moments().deviation(),
            "wealth_not_worse": self.not_worse.wealth(),
            "harmed_share": -self.harmless.moments().mean(),
            "wealth_harmless": self.harmless.wealth(),
            "wealth_better": self.better.wealth(),
            "wealth_worse": self.worse.wealth(),
            "settings": self.settings,
        });
        if self.worse.refuted(self.settings.mistake_worse) {
            let mean = self.worse.moments().mean();
            let blocks = self.worse.moments().count;
            let detail = format!("log cost is {mean:+.3} against what was in force, over {blocks} blocks");
            return self.roll_back(Why::WorseThanIncumbent, detail, test);
        }
        let stage = self.stage()?;
        let harmless = self.harmless.refuted(self.settings.mistake);
        if stage == Stage::Five && self.peeked.is_none() {
            if harmless && self.blocks >= self.settings.peeks_min {
                self.peeked = Some(self.blocks);
                self.harmless = self.harmless_at(Stage::TwentyFive);
                self.verdict = format!("{version}: {} first looks have shown no harm", self.blocks);
            }
            return None;
        }
        if self.blocks - self.peeked.unwrap_or(0) < self.blocks_min(stage) {
            return None;
        }
        let passed = match stage {
            Stage::Half => self.better.refuted(self.settings.mistake),
            _ => harmless && self.not_worse.refuted(self.settings.mistake),
        };
        passed.then(|| match stage.next().filter(|next| *next < Stage::Full) {
            Some(stage) => (What::StageEntered { version, stage }, self.with_exposure(test)),
            None => (What::Confirmed { version }, self.with_exposure(test)),
        })
    }

    /// `lead`: by how much the fallback was better.
    fn compare_with_fallback(&mut self, lead: f64) -> Option<(What, Value)> {
        let Choice::Version(version) = self.in_force().clone() else { return None };
        let lead = lead.clamp(-1.0, 1.0);
        let (bet, mistake) = match &mut self.inquiry {
            Some(bet) => {
                self.inquiry_blocks += 1;
                (bet, self.settings.mistake_worse)
            }
            None => {
                self.quiet_blocks += 1;
                self.watch.restart_if_losing();
                (&mut self.watch, WATCH_MISTAKE)
            }
        };
        bet.add(lead);
        let (refuted, moments) = (bet.refuted(mistake), bet.moments());
        let wealth = bet.wealth();
        if self.inquiry.is_some() && self.inquiry_blocks >= INQUIRY_BLOCKS {
            self.inquiry = None;
            self.quiet_blocks = 0;
        }
        let detail = format!("log cost is {:+.3} against the fallback, over {} blocks", moments.mean(), moments.count);
        let evidence = json!({ "blocks": moments.count, "log_cost_difference": moments.mean(), "wealth": wealth });
        refuted.then_some((What::RolledBack { version, why: Why::WorseThanFallback, detail }, evidence))
    }

    /// A bet that less is harmed than may be when the candidate decides as much as at this stage.
    fn harmless_at(&self, stage: Stage) -> Bet {
        Bet::that_more_than(-(self.settings.harm_max / stage.share()).min(0.9))
    }

    fn blocks_min(&self, stage: Stage) -> u64 {
        let ladder = Turns::RUNG_BLOCKS * (Turns::FIVE.len() as u64 - 1) + 1;
        if stage == Stage::Five { self.settings.blocks_min.max(ladder) } else { self.settings.blocks_min }
    }

    /// What the shadow and the clock say.
    fn look_at(&mut self, fitness: Option<Fitness>, now_ms: i64) -> Option<(What, Value)> {
        let version = self.candidate()?.to_owned();
        let trial = self.state.trial.clone()?;
        let since_s = now_ms.saturating_sub(trial.since_ms).max(0) as f64 / 1e3;
        if trial.stage == Stage::Shadow {
            if let Some(fitness) = fitness {
                self.shadow.ticks += 1;
                self.shadow.faults += u64::from(fitness == Fitness::Fault);
                self.shadow.unfamiliar += u64::from(fitness == Fitness::Unfamiliar);
            }
            let Shadow { ticks, faults, unfamiliar } = self.shadow;
            let seen = json!({ "ticks": ticks, "faults": faults, "unfamiliar": unfamiliar });
            if faults >= FAULTS_MAX {
                return self.roll_back(Why::Unfit, format!("it failed in {faults} of {ticks} ticks"), seen);
            }
            if since_s >= self.settings.shadow_s && ticks >= SHADOW_TICKS_MIN && self.rails.ready() {
                if unfamiliar as f64 > self.settings.unfamiliar_share_max * ticks as f64 {
                    let detail =
                        format!("in {unfamiliar} of {ticks} ticks the input was unlike what it was trained on");
                    return self.roll_back(Why::Unfit, detail, seen);
                }
                if self.rails.full() {
                    return Some((What::StageEntered { version, stage: Stage::Five }, self.with_exposure(seen)));
                }
            }
        }
        if since_s > self.settings.stage_s_max {
            let hours = self.settings.stage_s_max / 3600.0;
            let detail = match (trial.stage, self.rails.full()) {
                (_, false) => format!("there was too little traffic to judge by in {hours:.1} h"),
                (stage, true) => {
                    format!("after {hours:.1} h and {} blocks of stage {stage} it could not be told apart", self.blocks)
                }
            };
            return self.roll_back(Why::Undecided, detail, json!({ "blocks": self.blocks }));
        }
        None
    }

    /// Acts on what is to be written: what goes out is out at once.
    fn settle(&mut self, what: What, evidence: Value) {
        if let What::RolledBack { version, why, detail } = &what {
            self.out.insert(version.clone());
            self.suspended = None;
            self.verdict = format!("{version} was rolled back ({why:?}): {detail}");
        }
        self.end_block();
        self.asked = Some((what, evidence, 0));
    }

    /// What to ask for now: once, and again if the log does not take it.
    fn asking(&mut self) -> Option<(What, Value)> {
        let (what, evidence, ticks) = self.asked.as_mut()?;
        let due = ticks.is_multiple_of(ASK_AGAIN);
        *ticks += 1;
        due.then(|| (what.clone(), evidence.clone()))
    }

    fn next_arm(&mut self, applies: bool, now_ms: i64, rng: &mut impl Rng) -> Arm {
        let usual = if *self.in_force() == Choice::Fallback { Arm::Fallback } else { Arm::Incumbent };
        let first = self.stage() == Some(Stage::Five) && self.blocks == 0 && self.block.is_none();
        let known = if first { self.rails.full() } else { self.rails.ready() };
        let waiting = self.asked.is_some() || self.suspended.is_some() || !known;
        let trying = self.trying() && applies;
        if waiting || !(trying || self.watching()) {
            self.end_block();
            return usual;
        }
        let turns = match (self.stage().filter(|_| trying), &self.inquiry) {
            (Some(Stage::Five), _) => match self.peeked {
                Some(peeked) => {
                    let rung = ((self.blocks - peeked) / Turns::RUNG_BLOCKS) as usize;
                    Turns::FIVE[rung.min(Turns::FIVE.len() - 1)]
                }
                None if self.blocks == 0 && self.rails.steady() => Turns::FIRST,
                None => Turns::PEEK,
            },
            (Some(Stage::TwentyFive), _) => Turns::TWENTY_FIVE,
            (Some(_), _) => Turns::HALF,
            (None, Some(_)) => Turns::INQUIRY,
            (None, None) => Turns::HOLD_BACK,
        };
        // A new block begins where there is none; the first one of a candidate is as short as can be.
        let block = *self.block.get_or_insert_with(|| Block::new(turns, rng));
        // A first look in the middle of trouble would show nothing and make it worse. Both halves wait, so that they are compared fairly.
        let wait = block.turns().are_looks() && block.begins_half() && !self.rails.calm(&self.latest);
        self.holding = if wait && self.holding < HOLD_TICKS { self.holding + 1 } else { 0 };
        if self.holding > 0 {
            return usual;
        }
        let turn = block.turn();
        self.cut_short = turn.visitor && (self.cut_short || (turn.again && !self.rails.usual(&self.latest)));
        if !turn.visitor || self.cut_short {
            return usual;
        }
        if trying {
            self.exposed_ticks += 1;
            self.first_exposed_ms.get_or_insert(now_ms);
            Arm::Candidate
        } else {
            Arm::Fallback
        }
    }

    /// Whether a candidate takes turns.
    fn trying(&self) -> bool {
        self.candidate().is_some() && self.stage().is_some_and(|stage| stage > Stage::Shadow)
    }

    /// Whether the fallback takes turns against what is in force.
    fn watching(&self) -> bool {
        let version = matches!(self.in_force(), Choice::Version(_));
        self.settings.hold_back && version && self.state.pinned.is_none() && self.candidate().is_none()
    }

    fn stage(&self) -> Option<Stage> {
        self.state.trial.as_ref().map(|trial| trial.stage)
    }

    fn end_block(&mut self) {
        self.block = None;
        self.holding = 0;
        self.sides.iter_mut().for_each(Vec::clear);
    }
}
