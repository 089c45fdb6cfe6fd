//! How much a learned policy can cost in worlds that are unlike what it was trained in, against the fallback, which is the capacity prior.
//!
//! `cargo run --release --workspace --example unfamiliar -- CHECKPOINT,… WORLDS SEEDS`. World number `n` is a swarm that nothing was trained on, made strange by the
//! trait number `n` modulo the number of traits (the list is printed). Each is played with so many seeds by each policy and by the fallback,
//! on the same requests. Told are the share of ticks in which the policy was put aside, the geometric mean of p99 and of p50 over the fallback's with
//! 95 % intervals, what it loses of goodput in points; then the worst world of each policy.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::error::Error;
use std::path::Path;

use trimtab_model::decision::Reason;
use trimtab_model::{Policy, checkpoint::Checkpoint};
use trimtab_training::{
    learn::{exam::Examinee, parallel},
    report::Interval,
    scenario::{Family, Scenario, ScenarioError, Setting, seeds},
    simulator::{
        Summary, simulate,
        time::{MILLISECOND, SECOND},
    },
};

/// What makes a world strange.
struct Trait {
    what: &'static str,
    proxies: usize,
    endpoints: usize,
    change: fn(&mut Scenario),
}

const fn strange(what: &'static str, change: fn(&mut Scenario)) -> Trait {
    Trait { what, proxies: 4, endpoints: 16, change }
}

const TRAITS: [Trait; 12] = [
    strange("a swarm as it is", |_| {}),
    strange("pods scraped every 30 s", |world| world.telemetry.scrape_interval_ns = 30 * SECOND),
    strange("seven of ten scrapes lost", |world| world.telemetry.scrape_loss = 0.7),
    strange("no metrics at all", |world| world.telemetry.scraped = false),
    strange("the controller 2 s away", |world| world.telemetry.control_delay_ns = 2 * SECOND),
    strange("endpoints 40 ms away", |world| world.one_way_ns = 20 * MILLISECOND),
    strange("hardly any load", |world| world.rate_rps *= 0.1),
    strange("requests 30 times shorter", |world| stretch(world, 1.0 / 30.0)),
    strange("requests 30 times longer", |world| stretch(world, 30.0)),
    strange("pods eight times as large", |world| {
        for pod in &mut world.endpoints {
            pod.slots *= 8;
        }
        world.rate_rps *= 8.0;
    }),
    Trait { what: "48 proxies", proxies: 48, endpoints: 16, change: |_| {} },
    Trait { what: "600 endpoints", proxies: 4, endpoints: 600, change: |_| {} },
];

/// Makes requests longer by a factor, and as much rarer.
fn stretch(world: &mut Scenario, factor: f64) {
    for class in &mut world.classes {
        class.mean_ns *= factor;
    }
    world.rate_rps /= factor;
    world.objective_ns = (world.objective_ns as f64 * factor) as u64;
}

/// Requests that a run may have; spans of less than the shortest say nothing of what a tick does.
const REQUESTS_MAX: f64 = 400_000.0;
const SHORTEST_NS: u64 = 10 * SECOND;

fn world(number: u64, seed: u64) -> Scenario {
    let Trait { what, proxies, endpoints, change } = &TRAITS[number as usize % TRAITS.len()];
    let seed = seeds::TESTING.start + 500_000 + number * 1_000 + seed;
    let mut world = Family::Swarm.scenario(&Setting { seconds: Some(60), ..Setting::new(seed, *proxies, *endpoints) });
    change(&mut world);
    let enough_ns = ((REQUESTS_MAX / world.rate_rps * SECOND as f64) as u64).max(SHORTEST_NS);
    world.measured_ns.end = world.measured_ns.end.min(world.measured_ns.start + enough_ns);
    world.name = format!("{number}: {what}");
    world
}

/// One run, and the share of its ticks in which the policy was put aside.
fn run(examinee: &Examinee, world: &Scenario) -> Result<(Summary, f64), ScenarioError> {
    let mut fleet = examinee.fleet(world).keeping_ticks();
    let summary = simulate(world, &mut fleet)?;
    let aside = |tick: &&trimtab_training::fleet::Tick| {
        tick.decision.guard.iter().any(|action| action.reason == Reason::UnfamiliarInput)
    };
    let share = fleet.ticks().iter().filter(aside).count() as f64 / fleet.ticks().len().max(1) as f64;
    Ok((summary, share))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoints, worlds, count] = &*arguments else { return Err("CHECKPOINT,… WORLDS SEEDS are needed".into()) };
    let (worlds, count): (u64, u64) = (worlds.parse()?, count.parse()?);
    let mut examinees = vec![Examinee::prior()];
    let mut names = Vec::new();
    for file in checkpoints.split(',') {
        let bytes = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
        examinees.push(Examinee::policy(Policy::new(&Checkpoint::from_bytes(&bytes)?)?));
        names.push(Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned());
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let (per_world, all) = (count as usize * examinees.len(), worlds as usize * count as usize * examinees.len());
    let runs = parallel::map(jobs, all, |index| {
        let (number, rest) = (index / per_world, index % per_world);
        run(&examinees[rest % examinees.len()], &world(number as u64, (rest / examinees.len()) as u64))
    });
    let runs = runs.into_iter().collect::<Result<Vec<_>, _>>()?;
    println!("{:28} {:24} {:>6}  p99 / fallback          p50 / fallback          goodput", "WORLD", "POLICY", "aside");
    for (place, name) in names.iter().enumerate() {
        let mut worst: Option<(f64, String)> = None;
        for number in 0..worlds {
            let of = |seed: usize, who: usize| &runs[number as usize * per_world + seed * examinees.len() + who];
            let pairs: Vec<_> = (0..count as usize).map(|seed| (of(seed, place + 1), of(seed, 0))).collect();
            let ratio = |value: fn(&Summary) -> f64| {
                let logs: Vec<f64> = pairs.iter().map(|(own, prior)| (value(&own.0) / value(&prior.0)).ln()).collect();
                Interval::of_logarithms(&logs)
            };
            let (p99, p50) = (ratio(|run| run.latency_ms_p99), ratio(|run| run.latency_ms_p50));
            let runs_each = pairs.len().max(1) as f64;
            let aside = pairs.iter().map(|(own, _)| own.1).sum::<f64>() / runs_each;
            let more_good = pairs.iter().map(|(own, prior)| own.0.goodput_share - prior.0.goodput_share).sum::<f64>();
            let goodput = 100.0 * more_good / runs_each;
            let title = world(number, 0).name;
            println!("{title:28} {name:24} {:>5.0}%  {}  {}  {goodput:+.2}", 100.0 * aside, told(p99), told(p50));
            let ratio = p99.map_or(f64::NAN, |interval| interval.mean);
            if worst.as_ref().is_none_or(|(most, _)| ratio > *most) {
                worst = Some((ratio, title));
            }
        }
        if let Some((ratio, title)) = worst {
            println!("{name}: worst {ratio:.3} of the fallback's p99, in world {title}\n");
        }
    }
    Ok(())
}

fn told(interval: Option<Interval>) -> String {
    match interval {
        Some(Interval { mean, bounds: Some((low, high)) }) => format!("{mean:.3} [{low:.3}, {high:.3}]"),
        Some(Interval { mean, .. }) => format!("{mean:.3}"),
        None => String::new(),
    }
}
