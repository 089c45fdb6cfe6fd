//! Rule parameters side by side: how the defaults of `RuleParameters` were found.
//!
//! `cargo run --release --workspace --example rule_parameters -- FAMILIES PROXIES ENDPOINTS LOADS FROM-TO SECONDS VARIANT…`, lists separated by
//! commas, seeds from the training range. A variant is a list of settings: `k=1` (κ), `g=`, `z=`, `a=`, `w=` (ω), `h=`, `r=` and `f=` (affinity)
//! for the rule; `true` (class costs that are known, not learned), `none` (no classes), `equal` (no weights), `peers=MS` (0: none),
//! `unscraped` (pods without metrics), `report` (pods that report what is in flight), `noshed`; or `trimtab` or `c3` as they come.
//!
//! For each family and number of proxies it prints p99, p50 and mean over those of shortest expected delay, geometric means over the rest; `e`
//! stands before a percentage of errors, `s` before one of requests that were shed.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{
    collections::BTreeMap,
    error::Error,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use trimtab_model::decision::RuleParameters;
use trimtab_proxy::config::{Algorithm, RuleTerms};
use trimtab_training::{
    bounds::ShortestExpectedDelay,
    contest::geometric_mean,
    fleet::{ClassKnowledge, Control, Fleet, FleetOptions},
    scenario::{Family, Scenario, Setting, seeds::assert_trainable},
    simulator::{Summary, simulate},
};

/// What one run is about.
type Cell = (Family, usize, Setting);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [families, proxies, endpoints, loads, seeds, seconds, variants @ ..] = &*arguments else {
        return Err("FAMILIES PROXIES ENDPOINTS LOADS FROM-TO SECONDS VARIANT… are needed".into());
    };
    let (from, to) = seeds.split_once('-').ok_or("seeds are FROM-TO")?;
    let (from, to): (u64, u64) = (from.parse()?, to.parse()?);
    let seconds = Some(seconds.parse()?);
    let variants: Vec<Variant> = variants.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let mut cells: Vec<Cell> = Vec::new();
    for family in list::<Family>(families)? {
        for proxies in list(proxies)? {
            for endpoints in list(endpoints)? {
                for load in list(loads)? {
                    for seed in from..=to {
                        assert_trainable(family, seed)?;
                        let setting = Setting { load: Some(load), seconds, ..Setting::new(seed, proxies, endpoints) };
                        cells.push((family, proxies, setting));
                    }
                }
            }
        }
    }
    let results = run(cells, &variants)?;
    print(&results, &variants);
    Ok(())
}

fn list<T: FromStr>(text: &str) -> Result<Vec<T>, Box<dyn Error>>
where
    T::Err: Error + 'static,
{
    Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

/// By family and proxies, for each run the bound's result and then each variant's.
type Results = BTreeMap<(Family, usize), Vec<Vec<Summary>>>;

fn run(cells: Vec<Cell>, variants: &[Variant]) -> Result<Results, Box<dyn Error>> {
    let queue = Mutex::new(cells.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<Results, String> {
        let mut results = Results::new();
        while let Some((family, proxies, setting)) = next() {
            let scenario = family.scenario(&setting);
            let bound = simulate(&scenario, &mut ShortestExpectedDelay::new(&scenario));
            let runs = std::iter::once(bound).chain(variants.iter().map(|variant| variant.run(&scenario)));
            let row = runs.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
            results.entry((family, proxies)).or_default().push(row);
        }
        Ok(results)
    };
    let mut all = Results::new();
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            for (key, rows) in worker.join().map_err(|_| "a simulation panicked")?? {
                all.entry(key).or_default().extend(rows);
            }
        }
        Ok(())
    })?;
    Ok(all)
}

fn print(results: &Results, variants: &[Variant]) {
    for (number, variant) in variants.iter().enumerate() {
        println!("{number}: {}", variant.name);
    }
    let mut all: Vec<[Vec<f64>; 3]> = vec![Default::default(); variants.len()];
    for ((family, proxies), rows) in results {
        print!("{:18} {proxies:3}", family.name());
        for (number, all) in all.iter_mut().enumerate() {
            let figures: [fn(&Summary) -> f64; 3] =
                [|run| run.latency_ms_p99, |run| run.latency_ms_p50, |run| run.latency_ms_mean];
            for (figure, all) in figures.iter().zip(all) {
                let ratio = geometric_mean(rows.iter().map(|row| figure(&row[number + 1]) / figure(&row[0])));
                let ratio = ratio.unwrap_or(f64::NAN);
                print!(" {ratio:5.2}");
                all.push(ratio);
            }
            let percent = |share: fn(&Summary) -> f64| {
                100.0 * rows.iter().map(|row| share(&row[number + 1])).sum::<f64>() / rows.len() as f64
            };
            print!(" e{:.2} s{:.1} |", percent(|run| run.error_share), percent(|run| run.shed_share));
        }
        println!();
    }
    print!("{:22}", "all");
    for ratios in all.into_iter().flatten() {
        print!(" {:5.3}", geometric_mean(ratios).unwrap_or(f64::NAN));
    }
    println!();
}

/// A way to route, by what was typed.
struct Variant {
    name: String,
    options: FleetOptions,
    scraped: bool,
    reports: bool,
}

impl Variant {
    fn run(&self, scenario: &Scenario) -> Result<Summary, trimtab_training::scenario::ScenarioError> {
        let mut scenario = scenario.clone();
        scenario.telemetry.scraped &= self.scraped;
        scenario.reports_in_flight |= self.reports;
        simulate(&scenario, &mut Fleet::new(&scenario, &self.options))
    }
}

impl FromStr for Variant {
    type Err = Box<dyn Error>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut variant = Self { name: text.to_owned(), options: FleetOptions::TRIMTAB, scraped: true, reports: false };
        let options = &mut variant.options;
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, "0"));
            let value: f32 = value.parse()?;
            let mut rule = options.parameters.unwrap_or(RuleParameters::WITH_SLOTS);
            match key {
                "k" => rule.exponent = value,
                "g" => rule.offset = value,
                "z" => rule.latency_exponent = value,
                "a" => rule.error_exponent = value,
                "w" => rule.weight_exponent = value,
                "h" => rule.work_share = value,
                "r" => rule.affinity_proxies = value,
                "f" => rule.affinity_factor = value,
                "true" => options.classes = ClassKnowledge::True,
                "none" => options.classes = ClassKnowledge::None,
                "equal" => options.control = Control::Equal,
                "peers" => options.peers_ns = (value > 0.0).then_some((value * 1e6) as u64),
                "unscraped" => variant.scraped = false,
                "report" => variant.reports = true,
                "noshed" => options.terms = RuleTerms { class_shedding: false, ..options.terms },
                "c3" => *options = FleetOptions::baseline(Algorithm::C3Local),
                "trimtab" => {}
                _ => return Err(format!("{key:?} is no setting of a variant").into()),
            }
            if ["k", "g", "z", "a", "w", "h", "r", "f"].contains(&key) {
                options.parameters = Some(rule);
            }
        }
        Ok(variant)
    }
}
