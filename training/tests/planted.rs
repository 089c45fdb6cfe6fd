//! Twenty bad models, each pushed in the way that it would come, and which layer stopped it, and when: what cannot be a policy is refused as a file, what a
//! trainer made is refused by the gate, and what somebody promotes by hand past the gate goes out live within five seconds.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail like tests, and the table is what it is about"
)]

mod support;

use std::collections::BTreeMap;

use support::{OPTIONS, planted, try_out};
use trimtab_model::{
    Policy,
    checkpoint::{Checkpoint, Manifest},
    rollout::{What, Why},
    service::{Service, Slots},
};
use trimtab_training::{
    fleet::Fleet,
    refine::{Inventory, Job, Options, Refusal},
    scenario::unequal_pods,
    simulator::simulate,
};

const BACKEND: &str = "simulation/backend:80";

/// Bytes, or why there are none.
type File = Result<Vec<u8>, String>;

/// Where a model was stopped.
struct Stopped {
    model: String,
    by: &'static str,
    how: String,
}

/// The shipped policy as a file, with some bytes replaced by as many others.
fn file(replaced: &str, by: &str) -> Vec<u8> {
    let mut bytes = Checkpoint::zero(0).to_bytes().unwrap();
    let at = bytes.windows(replaced.len()).position(|window| window == replaced.as_bytes()).unwrap();
    bytes[at..at + by.len()].copy_from_slice(by.as_bytes());
    bytes
}

/// The shipped policy with another manifest; the reason if that cannot be.
fn manifest(change: impl FnOnce(&mut Manifest)) -> Result<Vec<u8>, String> {
    let zero = Checkpoint::zero(0);
    let mut manifest = zero.manifest().clone();
    change(&mut manifest);
    let checkpoint = Checkpoint::new(manifest, zero.tensors().clone()).map_err(|error| error.to_string())?;
    checkpoint.to_bytes().map_err(|error| error.to_string())
}

fn facts(usual: f64) -> Option<Service> {
    Some(Service { backend: BACKEND.to_owned(), slots: Slots { usual, endpoints: BTreeMap::new() } })
}

/// Files that are no policies, with what is said of each.
fn refused_as_files() -> Vec<Stopped> {
    let good = Checkpoint::zero(0).to_bytes().unwrap();
    let mut nan = good.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let mut flipped = good.clone();
    flipped[9] ^= 0x55;
    let files: [(&str, File, &str); 7] = [
        ("NaN among its weights", Ok(nan), "must be finite"),
        ("cut off half-way", Ok(good[..good.len() / 2].to_vec()), "not a whole safetensors file"),
        ("a byte of its header changed", Ok(flipped), "checkpoint"),
        ("schema of the future", Ok(file("schema_version\\\":2", "schema_version\\\":9")), "schema version 9"),
        ("trained on other features", Ok(file("capacity_ratio", "capacity_radio")), "`capacity_radio`"),
        ("bounds beyond all bounds", manifest(|manifest| manifest.residual_clip = 50.0), "residual_clip is 50"),
        ("facts that cannot be", manifest(|manifest| manifest.service = facts(0.0)), "service.slots.usual is 0"),
    ];
    files
        .into_iter()
        .map(|(model, bytes, expected)| {
            let why = bytes.and_then(|bytes| match Policy::load(&bytes) {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            });
            let why = why.expect_err(model);
            assert!(why.contains(expected), "{model}: {why:?} does not say {expected:?}");
            Stopped { model: model.to_owned(), by: "file", how: why }
        })
        .collect()
}

/// Models that a trainer hands to the gate, with five minutes of recordings.
fn refused_by_the_gate() -> Vec<Stopped> {
    let mut scenario = unequal_pods(7, 1, 0.8).lasting(300);
    scenario.telemetry.slots_told = false;
    let incumbent = Checkpoint::zero(0);
    let mut fleet = Fleet::with_policy(&scenario, &OPTIONS, Policy::new(&incumbent).unwrap()).recording(0.06);
    simulate(&scenario, &mut fleet).unwrap();
    let recording = fleet.into_recording();
    let handed = [
        "sign flipped, mildly",
        "to pods with a queue",
        "all to the fastest",
        "latency a 20th",
        "errors a 20th",
        "noise 3",
    ];
    let mut given: Vec<(String, Checkpoint)> = planted()
        .into_iter()
        .filter(|(name, _)| handed.contains(name))
        .map(|(name, checkpoint)| (name.to_owned(), checkpoint))
        .collect();
    let other = Manifest { service: facts(64.0), ..incumbent.manifest().clone() };
    given.push(("facts of another template".to_owned(), Checkpoint::new(other, incumbent.tensors().clone()).unwrap()));
    assert_eq!(given.len(), 7);
    let names: Vec<String> = given.iter().map(|(name, _)| name.clone()).collect();
    let job = Job {
        ticks: &recording.ticks,
        requests: &recording.requests,
        inventory: Inventory::of(&recording.ticks, &recording.requests).swap_remove(0),
        incumbent: &incumbent,
        options: Options { generations: 0, stretch_s: 10, ..Options::default() },
        jobs: 2,
        found: None,
        given,
    };
    let refined = job.run(|_| ()).unwrap();
    assert_eq!(refined.checked.objection(), None, "the twin may vote");
    let judged = refined.judged.iter().filter(|judged| names.contains(&judged.candidate.name));
    judged
        .map(|judged| {
            let refusals = &judged.gate.refusals;
            assert!(!judged.gate.promotes(), "{}: {:?}", judged.candidate.name, judged.gate);
            // The worst first: what the twin is sure of says more than who could not vote.
            let harm = refusals.iter().find(|refusal| matches!(refusal, Refusal::Worse { .. })).or(refusals.first());
            Stopped { model: judged.candidate.name.clone(), by: "gate", how: harm.unwrap().in_words() }
        })
        .collect()
}

/// Models that somebody promotes by hand.
fn rolled_back_live() -> Vec<Stopped> {
    let pushed = [
        "sign flipped: to slow pods",
        "to busy pods",
        "to pods with high latency",
        "latency 20 times",
        "all of the rule at its bounds",
        "trained elsewhere",
    ];
    let scenario = unequal_pods(1, 1, 0.8);
    let models = planted().into_iter().filter(|(name, _)| pushed.contains(name));
    models
        .map(|(name, checkpoint)| {
            let fate = try_out(&scenario, &Policy::prior_only(), &Policy::new(&checkpoint).unwrap(), 200);
            let soon = fate.why == Some(Why::Unfit) || fate.lasted_s.is_some_and(|s| s <= 5.0);
            assert!(soon, "{name}: {}", fate.text());
            assert!(fate.harmed <= 0.01, "{name}: {}", fate.text());
            assert!(fate.log.iter().any(|event| matches!(event.what, What::RolledBack { .. })), "{name}");
            Stopped { model: name.to_owned(), by: "live", how: fate.text() }
        })
        .collect()
}

#[test]
fn each_of_twenty_bad_models_is_stopped_and_says_where() {
    let stopped: Vec<Stopped> =
        [refused_as_files(), refused_by_the_gate(), rolled_back_live()].into_iter().flatten().collect();
    for Stopped { model, by, how } in &stopped {
        println!("{model:32} {by:5} {}", how.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    assert_eq!(stopped.len(), 20);
    let by_harm = stopped.iter().filter(|stopped| stopped.by == "gate" && stopped.how.contains("may be worse")).count();
    assert!(by_harm >= 3, "the gate sees harm, and not only that it cannot be sure");
}
