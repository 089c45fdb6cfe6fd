//! Whether what was found out about a service explains requests that nothing was fitted to: fitted on one half of a recording, latencies of the other
//! are predicted with the slots that were found and without any, and the two compared. Routing does not enter here, and nor does the simulator.

use serde::{Deserialize, Serialize};

use crate::{
    report::Interval,
    twin::{Trace, Twin},
};

/// Requests are correlated for seconds: means of this long are what the interval is over.
const BLOCK_MS: i64 = 10_000;

/// By how much knowing the slots improves predictions of latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Foresight {
    /// Mean absolute deviation of the logarithms with the slots, over that without.
    pub ratio: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
    /// Requests that found no slot free, among those that were predicted.
    pub waited: usize,
}

impl Foresight {
    /// On a trace that `twin` was not made from; nothing without requests.
    pub fn of(twin: &Twin, held_out: &Trace) -> Option<Self> {
        let (mut with, mut without, mut waited) = (Vec::new(), Vec::new(), 0);
        for block in held_out.requests.chunk_by(|a, b| a.at_ms.div_euclid(BLOCK_MS) == b.at_ms.div_euclid(BLOCK_MS)) {
            let (mut known, mut unknown, mut count) = (0.0, 0.0, 0.0);
            for request in block.iter().filter(|request| request.good) {
                let slots = f64::from(twin.fit.endpoints[request.endpoint].slots);
                waited += usize::from(request.in_flight + 1.0 > slots);
                known += twin.fit.residual(request).abs();
                unknown += twin.fit.residual(&crate::twin::trace::Request { in_flight: 0.0, ..*request }).abs();
                count += 1.0;
            }
            if count > 0.0 {
                with.push(known / count);
                without.push(unknown / count);
            }
        }
        let logs: Vec<f64> =
            with.iter().zip(&without).filter(|(_, b)| **b > 0.0).map(|(a, b)| (a.max(1e-9) / b).ln()).collect();
        let interval = Interval::of_logarithms(&logs)?;
        Some(Self { ratio: interval.mean, high: interval.bounds.map_or(f64::INFINITY, |bounds| bounds.1), waited })
    }

    /// Whether knowing the slots makes latencies clearer, with 95 % confidence.
    pub fn confirms(&self) -> bool {
        self.high < 1.0
    }
}
