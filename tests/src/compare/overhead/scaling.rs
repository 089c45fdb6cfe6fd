//! How much more a proxy does with more cores: as many requests as go, with one worker a core.

use std::time::Duration;

use serde::Serialize;

use super::cores::Cores;
use super::{Cost, Endpoint, measure};
use crate::compare::rival::{Protocol, Rival};
use crate::compare::statistics::{Estimate, geometric_mean, median};
use crate::tools::Tools;

/// One router with so many workers.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub rival: String,
    /// Length of the answers' bodies.
    pub body_bytes: u32,
    /// Its workers, and cores.
    pub workers: usize,
    /// Requests per second, the median.
    pub rps: Option<f64>,
    /// Share of its cores that it kept busy, the median: much below 1, load or endpoint were what limited it.
    pub busy: Option<f64>,
    /// Requests per second over those with the first number of workers, pair by pair.
    pub gain: Option<Estimate>,
    /// All measurements.
    pub costs: Vec<Cost>,
}

/// Measures each of `rivals` with each of `workers`, in turns, `repetitions` times.
///
/// # Errors
/// If there are too few cores, or a measurement fails.
pub async fn compare(
    tools: &Tools,
    rivals: &[Rival],
    workers: &[usize],
    bytes: u32,
    repetitions: usize,
    length: Duration,
    mut told: impl FnMut(Rival, usize, &Cost),
) -> anyhow::Result<Vec<Row>> {
    // Load and endpoint have the same cores with all numbers of workers.
    let most = workers.iter().copied().max().unwrap_or(1);
    let layouts = workers.iter().map(|workers| Cores::all(*workers, most)).collect::<anyhow::Result<Vec<Cores>>>()?;
    let Some(first) = layouts.first() else { return Ok(Vec::new()) };
    let endpoint = Endpoint::start(tools, first).await?;
    let cases: Vec<(Rival, &Cores)> =
        rivals.iter().flat_map(|rival| layouts.iter().map(|cores| (*rival, cores))).collect();
    let mut measured: Vec<Vec<Cost>> = vec![Vec::new(); cases.len()];
    for repetition in 0..repetitions {
        for turn in 0..cases.len() {
            let index = (turn + repetition) % cases.len();
            let (rival, cores) = cases[index];
            let cost = measure(tools, rival, Protocol::Http1, &endpoint, cores, bytes, length).await?;
            told(rival, cores.workers, &cost);
            measured[index].push(cost);
        }
    }
    endpoint.stop().await?;
    let row = |index: usize| {
        let (rival, cores) = cases[index];
        let middle = |value: fn(&Cost) -> f64| median(&measured[index].iter().map(value).collect::<Vec<_>>());
        let alone = &measured[index - index % layouts.len()];
        let gains: Vec<f64> = measured[index].iter().zip(alone).map(|(more, one)| more.rps / one.rps).collect();
        Row {
            rival: rival.name(),
            body_bytes: bytes,
            workers: cores.workers,
            rps: middle(|cost| cost.rps),
            busy: middle(|cost| cost.core_share).map(|cores_used| cores_used / cores.workers as f64),
            gain: geometric_mean(&gains, 1),
            costs: measured[index].clone(),
        }
    };
    Ok((0..cases.len()).map(row).collect())
}
