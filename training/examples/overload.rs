//! Where goodput goes in overload: of each class of requests how many were shed, answered late, answered in time.
//!
//! `cargo run --release --workspace --example overload -- FAMILIES PROXIES ENDPOINTS FROM-TO POLICIES [LOAD] [SECONDS]`, lists separated by
//! commas; without a load the family says, as with `trimtab simulate`. For each family and number of proxies it prints the mean over seeds of
//! what can be reached by shedding the costliest requests first, then of each policy what was answered in time, late, shed, and the share of the
//! capacity that went into late answers; in brackets, by seed, how far above the first it was. With one seed it also prints every class.
#![expect(clippy::print_stdout, reason = "printing is what it is for")]

use std::{
    error::Error,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use trimtab_training::{
    contest::{self, Contest},
    report::Interval,
    scenario::{Family, Scenario, Setting},
    simulator::{
        Outcome, Router, Routing,
        endpoint::Endpoint,
        router::{Arrival, Departure},
        simulate,
    },
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [families, proxies, endpoints, seeds, policies, rest @ ..] = &*arguments else {
        return Err("FAMILIES PROXIES ENDPOINTS FROM-TO POLICIES [LOAD] [SECONDS] are needed".into());
    };
    let (from, to) = seeds.split_once('-').ok_or("seeds are FROM-TO")?;
    let (from, to): (u64, u64) = (from.parse()?, to.parse()?);
    let load = rest.first().filter(|load| *load != "-").map(|load| load.parse()).transpose()?;
    let seconds = rest.get(1).map(|seconds| seconds.parse()).transpose()?;
    let policies: Vec<_> = policies.split(',').map(contest::by_name).collect::<Result<_, _>>()?;
    for family in list::<Family>(families)? {
        for proxies in list::<usize>(proxies)? {
            for endpoints in list::<usize>(endpoints)? {
                let scenarios: Vec<Scenario> = (from..=to)
                    .map(|seed| family.scenario(&Setting { load, seconds, ..Setting::new(seed, proxies, endpoints) }))
                    .collect();
                print!("{:18} P{proxies:<2} N{endpoints:<3}", family.name());
                for policy in &policies {
                    let ledgers = run(&scenarios, &**policy)?;
                    tell(policy.name(), &scenarios, &ledgers);
                }
                println!();
            }
        }
    }
    Ok(())
}

fn list<T: FromStr>(text: &str) -> Result<Vec<T>, Box<dyn Error>>
where
    T::Err: Error + 'static,
{
    Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

/// What became of the requests of each class that arrived in the measured window.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    arrived: f64,
    shed: f64,
    late: f64,
    failed: f64,
}

/// A router that is watched.
struct Watched {
    inner: Box<dyn Router>,
    measured_ns: std::ops::Range<u64>,
    objective_ns: u64,
    arrived_ns: Vec<u64>,
    fates: Vec<Fate>,
}

impl Router for Watched {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        let number = arrival.request as usize;
        if self.arrived_ns.len() <= number {
            self.arrived_ns.resize(number + 1, 0);
        }
        let measured = self.measured_ns.contains(&arrival.now_ns);
        let fate = &mut self.fates[usize::from(arrival.class)];
        if arrival.tried.is_none() {
            self.arrived_ns[number] = arrival.now_ns;
            fate.arrived += f64::from(u8::from(measured));
        }
        let routing = self.inner.route(arrival, endpoints);
        if measured && routing == Routing::Shed {
            fate.shed += 1.0;
        }
        routing
    }

    fn ended(&mut self, departure: &Departure) {
        self.inner.ended(departure);
        let arrived_ns = self.arrived_ns[departure.request as usize];
        if departure.retried || !self.measured_ns.contains(&arrived_ns) {
            return;
        }
        let fate = &mut self.fates[usize::from(departure.class)];
        if departure.outcome != Outcome::Success {
            fate.failed += 1.0;
        } else if departure.now_ns - arrived_ns > self.objective_ns {
            fate.late += 1.0;
        }
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.inner.readiness(now_ns, endpoint, ready);
    }

    fn next_waiting(&mut self, now_ns: u64, endpoints: &[Endpoint]) -> Option<(u32, u32)> {
        self.inner.next_waiting(now_ns, endpoints)
    }

    fn control_at_ns(&self) -> u64 {
        self.inner.control_at_ns()
    }

    fn control(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        self.inner.control(now_ns, endpoints);
    }
}

/// By scenario, then by class; and the goodput that the simulator itself counted.
type Ledgers = Vec<(Vec<Fate>, f64)>;

fn run(scenarios: &[Scenario], policy: &dyn Contest) -> Result<Ledgers, Box<dyn Error>> {
    let queue = Mutex::new(scenarios.iter().enumerate());
    let done = Mutex::new(Vec::new());
    let work = || -> Result<(), String> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((number, scenario)) = next else { return Ok(()) };
            let mut watched = Watched {
                inner: policy.router(scenario),
                measured_ns: scenario.measured_ns.clone(),
                objective_ns: scenario.objective_ns,
                arrived_ns: Vec::new(),
                fates: vec![Fate::default(); scenario.classes.len()],
            };
            let summary = simulate(scenario, &mut watched).map_err(|error| error.to_string())?;
            let row = (number, (watched.fates, summary.goodput_share));
            done.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        }
    };
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| "a simulation panicked")??;
        }
        Ok(())
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, row)| row).collect())
}

fn tell(name: &str, scenarios: &[Scenario], ledgers: &Ledgers) {
    let mean = |of: &dyn Fn(&Scenario, &[Fate]) -> f64| {
        let sum: f64 = scenarios.iter().zip(ledgers).map(|(scenario, (fates, _))| of(scenario, fates)).sum();
        100.0 * sum / scenarios.len() as f64
    };
    let share = |fates: &[Fate], of: fn(&Fate) -> f64| {
        fates.iter().map(of).sum::<f64>() / fates.iter().map(|fate| fate.arrived).sum::<f64>().max(1.0)
    };
    let wasted = |scenario: &Scenario, fates: &[Fate]| {
        let window_s = (scenario.measured_ns.end - scenario.measured_ns.start) as f64 / 1e9;
        let work: f64 = fates.iter().zip(0..).map(|(fate, class)| fate.late * scenario.class_work_ns(class)).sum();
        work / (scenario.capacity_rps() * scenario.mean_work_ns() * window_s)
    };
    let goodput: Vec<f64> = ledgers.iter().map(|(_, goodput)| 100.0 * goodput).collect();
    let good = Interval::of(&goodput).map_or(0.0, |good| good.mean);
    let half = Interval::of(&goodput).and_then(|good| good.half_width()).unwrap_or(0.0);
    print!(
        " | ceiling {:.1} {name}: good {good:.2} ±{half:.2} shed {:.2} late {:.2} (work {:.1}) failed {:.2}",
        mean(&|scenario, _| scenario.reachable_goodput()),
        mean(&|_, fates| share(fates, |fate| fate.shed)),
        mean(&|_, fates| share(fates, |fate| fate.late)),
        mean(&wasted),
        mean(&|_, fates| share(fates, |fate| fate.failed)),
    );
    let ([scenario], [(fates, _)]) = (scenarios, &**ledgers) else {
        let each: Vec<String> = scenarios
            .iter()
            .zip(ledgers)
            .map(|(scenario, (_, good))| format!("{:.1}", 100.0 * (good - scenario.reachable_goodput())))
            .collect();
        print!(" [{}]", each.join(" "));
        return;
    };
    println!("\n  objective {} ms", scenario.objective_ns / 1_000_000);
    let mut order: Vec<usize> = (0..fates.len()).collect();
    order.sort_by(|a, b| scenario.classes[*a].mean_ns.total_cmp(&scenario.classes[*b].mean_ns));
    for class in order {
        let (fate, kind) = (fates[class], scenario.classes[class]);
        println!(
            "  {:7.1} ms, {:5.1} % of requests, {:5.1} % of work: shed {:5.1} late {:5.1} %",
            kind.mean_ns / 1e6,
            100.0 * kind.share,
            100.0 * kind.share * kind.mean_ns / scenario.mean_work_ns(),
            100.0 * fate.shed / fate.arrived.max(1.0),
            100.0 * fate.late / fate.arrived.max(1.0)
        );
    }
}
