//! The families: what services meet, by name.

use std::str::FromStr;

use super::{Scenario, recipe};

/// What is chosen from outside about a scenario; the family and the seed choose the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// All randomness comes from here; [`super::seeds`] says which are for what.
    pub seed: u64,
    /// Proxies; at least 1.
    pub proxies: usize,
    /// Endpoints that serve at one time; at least 1. A rolling restart replaces each by another.
    pub endpoints: usize,
    /// Requests as a share of the capacity that the family's troubles leave on average; `None`: the family draws it.
    pub load: Option<f64>,
    /// Whether endpoints say on their answers how many requests are inside; `None`: the family says.
    pub reports_in_flight: Option<bool>,
    /// Whether their metrics tell how many requests they serve at once.
    pub slots_told: bool,
    /// Measured seconds; `None`: as many as about 60,000 requests take, but 12 to 30 (a rolling restart: 24 to 30).
    pub seconds: Option<u64>,
}

impl Setting {
    /// Everything else as the family says.
    pub const fn new(seed: u64, proxies: usize, endpoints: usize) -> Self {
        Self { seed, proxies, endpoints, load: None, reports_in_flight: None, slots_told: true, seconds: None }
    }
}

/// A kind of scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// All pods are equal and stay so.
    Homogeneous,
    /// Speeds 1, 2 and 4; 1 to 8 slots.
    Heterogeneous,
    /// Pods slow down by 3 to 5 times for 50 ms to 5 s, now here, now there.
    Interference,
    /// Load rises to all that the pods can serve for some seconds, and falls again, several times.
    Surge,
    /// Load rises to 1.2 times what all pods together can serve, and stays there.
    Burst,
    /// The same with 1.5 times.
    Burst150,
    /// [`Self::Burst`] with classes of requests whose costs differ.
    BurstClasses,
    /// [`Self::Burst150`] with classes of requests whose costs differ.
    BurstClasses150,
    /// Pods crash, start cold, drain.
    Churn,
    /// A service grows: new pods join, cold, and load follows.
    ScaleOut,
    /// Pods fail a share of their requests fast, or slowly, or their metrics lie, while their health checks pass.
    Gray,
    /// Single-slot pods; 4 to 12 classes of requests with costs of 1:100.
    ClassesSingle,
    /// Multi-slot pods, unequal with half of the seeds; classes as above.
    ClassesMulti,
    /// 8 classes of requests that cost 2 to 3 times as much on some of 2 to 4 node groups.
    Affinity,
    /// Unequal pods, interference, classes, unequal proxies. For testing only.
    Mixed,
    /// Every pod is replaced by a new one that starts cold. For testing only.
    Deploy,
    /// Every ingredient there is, drawn at random. Seeds from 1,000,000 on are for testing only.
    Swarm,
}

impl Family {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 17] = [
        Self::Homogeneous,
        Self::Heterogeneous,
        Self::Interference,
        Self::Surge,
        Self::Burst,
        Self::Burst150,
        Self::BurstClasses,
        Self::BurstClasses150,
        Self::Churn,
        Self::ScaleOut,
        Self::Gray,
        Self::ClassesSingle,
        Self::ClassesMulti,
        Self::Affinity,
        Self::Mixed,
        Self::Deploy,
        Self::Swarm,
    ];

    /// What may be trained and tuned on, with seeds that [`super::seeds::assert_trainable`] allows.
    pub const TRAINING: [Self; 14] = [
        Self::Homogeneous,
        Self::Heterogeneous,
        Self::Interference,
        Self::Surge,
        Self::Burst,
        Self::Burst150,
        Self::BurstClasses,
        Self::BurstClasses150,
        Self::Churn,
        Self::ScaleOut,
        Self::Gray,
        Self::ClassesSingle,
        Self::ClassesMulti,
        Self::Affinity,
    ];

    /// What tells how well something does where it was not trained.
    pub const TESTING: [Self; 3] = [Self::Mixed, Self::Deploy, Self::Swarm];

    /// Name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Homogeneous => "homogeneous",
            Self::Heterogeneous => "heterogeneous",
            Self::Interference => "interference",
            Self::Surge => "surge",
            Self::Burst => "burst",
            Self::Burst150 => "burst-1.5",
            Self::BurstClasses => "burst-classes",
            Self::BurstClasses150 => "burst-classes-1.5",
            Self::Churn => "churn",
            Self::ScaleOut => "scale-out",
            Self::Gray => "gray",
            Self::ClassesSingle => "classes-single",
            Self::ClassesMulti => "classes-multi",
            Self::Affinity => "affinity",
            Self::Mixed => "mixed",
            Self::Deploy => "deploy",
            Self::Swarm => "swarm",
        }
    }

    /// What it is, in a line for people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Homogeneous => "all pods are equal and stay so",
            Self::Heterogeneous => "pods with speeds 1, 2 and 4 and 1 to 8 slots",
            Self::Interference => "pods slow down 3 to 5 times for 50 ms to 5 s, now here, now there",
            Self::Surge => "load rises to 1.0 of the capacity for some seconds and falls again, several times",
            Self::Burst => "overload: 1.2 times the capacity, requests all of one class",
            Self::Burst150 => "overload: 1.5 times the capacity, requests all of one class",
            Self::BurstClasses => "overload: 1.2 times the capacity, 4 to 12 classes with costs of 1:100",
            Self::BurstClasses150 => "overload: 1.5 times the capacity, 4 to 12 classes with costs of 1:100",
            Self::Churn => "pods crash or drain, and start cold",
            Self::ScaleOut => "half as many pods again join, cold, in two batches, and load follows",
            Self::Gray => "pods fail fast or slowly, or lie in their metrics, while health checks pass",
            Self::ClassesSingle => "single-slot pods, 4 to 12 classes of requests with costs of 1:100",
            Self::ClassesMulti => "multi-slot pods, 4 to 12 classes of requests with costs of 1:100",
            Self::Affinity => "8 classes that cost 2 to 3 times as much on some of 2 to 4 node groups",
            Self::Mixed => "unequal pods, interference, classes, unequal proxies (testing only)",
            Self::Deploy => "a rolling restart: every pod is replaced by a cold one (testing only)",
            Self::Swarm => "every ingredient there is, at random (testing only from seed 1000000 on)",
        }
    }

    /// Whether there is more load than can be served: then goodput counts, not latency.
    pub const fn is_overload(self) -> bool {
        matches!(self, Self::Burst | Self::Burst150 | Self::BurstClasses | Self::BurstClasses150)
    }

    /// The scenario of this family in this setting.
    pub fn scenario(self, setting: &Setting) -> Scenario {
        recipe::scenario(self, setting)
    }
}

/// There is no family of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no family; there are {}", Family::ALL.map(Family::name).join(", "))]
pub struct UnknownFamily {
    name: String,
}

impl FromStr for Family {
    type Err = UnknownFamily;

    fn from_str(name: &str) -> Result<Self, UnknownFamily> {
        Self::ALL.into_iter().find(|family| family.name() == name).ok_or_else(|| UnknownFamily { name: name.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_found_by_its_name_and_a_wrong_name_lists_the_right_ones() {
        for family in Family::ALL {
            assert_eq!(family.name().parse(), Ok(family));
        }
        let error = "grey".parse::<Family>().unwrap_err().to_string();
        assert!(error.contains("\"grey\"") && error.contains("gray") && error.contains("swarm"), "{error}");
    }

    #[test]
    fn every_family_is_for_training_or_for_testing() {
        let mut both = [&Family::TRAINING[..], &Family::TESTING[..]].concat();
        both.sort();
        let mut all = Family::ALL.to_vec();
        all.sort();
        assert_eq!(both, all);
    }
}
