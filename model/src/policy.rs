//! The learned part: features in, a bounded residual on the prior's log weights and on the rule parameters out.

use crate::decision::RuleParameters;

/// Parameters of the pick rule that a policy may move, in the order of [`Proposal::parameters`].
pub const RULE_PARAMETERS: [&str; 4] = ["exponent", "offset", "latency_exponent", "error_exponent"];

/// A policy, ready to propose.
#[derive(Debug, Clone)]
pub struct Policy {
    version: String,
}

/// What a policy wants. Finite or not: the guard looks.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// To be added to the log of the prior's weights, one an endpoint.
    pub log_weights: Vec<f64>,
    /// To be added to the log of the rule parameters, see [`RULE_PARAMETERS`].
    pub parameters: [f64; RULE_PARAMETERS.len()],
    /// Log-density of the noise in `log_weights`; `None` where nothing was drawn.
    pub log_probability: Option<f64>,
}

impl Policy {
    /// The policy that always agrees with the prior.
    pub fn prior_only() -> Self {
        Self { version: "prior".to_owned() }
    }

    /// Its version, as recordings name it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Proposes for this many endpoints.
    pub(crate) fn propose(&self, endpoints: usize) -> Proposal {
        Proposal { log_weights: vec![0.0; endpoints], parameters: [0.0; RULE_PARAMETERS.len()], log_probability: None }
    }
}

impl Proposal {
    /// The rule parameters that the proposal makes of these.
    pub fn rule(&self, base: RuleParameters) -> RuleParameters {
        let moved = |value: f32, log: f64| (f64::from(value) * log.exp()) as f32;
        RuleParameters {
            exponent: moved(base.exponent, self.parameters[0]),
            offset: moved(base.offset, self.parameters[1]),
            latency_exponent: moved(base.latency_exponent, self.parameters[2]),
            error_exponent: moved(base.error_exponent, self.parameters[3]),
            ..base
        }
    }
}
