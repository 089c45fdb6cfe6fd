//! Validated forms of what concerns classes of requests: how a backend's requests are told apart, which terms of the rule act, and what
//! is known of each class.

use std::collections::HashSet;

use http::HeaderName;

use super::{Check, ClassCost, ClassKey, ClassTable, InvalidResource, RuleParameters};
use crate::{api::v1, class::identity, load::CLASSES_MAX};

/// Costs are within these, in milliseconds: a microsecond and an hour.
const COST_MS: std::ops::RangeInclusive<f32> = 1e-3..=3.6e6;
/// Factors are within these: what is a thousand times as slow on one class is broken, not slow.
const FACTORS: std::ops::RangeInclusive<f32> = 1e-3..=1e3;
/// Bytes of a class's name at most.
const NAME_BYTES_MAX: usize = 512;
/// Bytes of the header's name at most: it stands in the names of its classes.
const HEADER_BYTES_MAX: usize = 128;
/// Bytes of a priority's pattern at most.
const PATTERN_BYTES_MAX: usize = 512;
/// Priorities at most: every class that is found is held against each.
const PRIORITIES_MAX: usize = 64;

/// How the requests of a backend are told apart.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestClasses {
    /// Whether they are; only under the adaptive rule. Default: true.
    pub enabled: bool,
    /// A header whose value, where a request has it, is its class. Default: none.
    pub header: Option<HeaderName>,
    /// Classes that are shed for their cost less than others, or never; the first that matches counts. Default: none.
    pub priorities: Vec<ClassPriority>,
}

impl Default for RequestClasses {
    fn default() -> Self {
        Self { enabled: true, header: None, priorities: Vec::new() }
    }
}

/// How much of the concurrency limit the classes that match may fill at least.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassPriority {
    /// A class's name or the value of the header; a `*` at its end stands for anything.
    pub pattern: String,
    /// 0..=1; 1: never shed for its cost.
    pub priority: f32,
}

/// What the adaptive rule takes into account; each can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleTerms {
    /// Pushed weights.
    pub weights: bool,
    /// The latency average.
    pub latency: bool,
    /// Error averages, own and pooled.
    pub errors: bool,
    /// What is known of the cost of the request's class.
    pub class_costs: bool,
    /// Preferred proxies of an endpoint.
    pub affinity: bool,
    /// Expensive classes are shed first.
    pub class_shedding: bool,
    /// What other proxies say that they have in flight.
    pub peers: bool,
}

impl RuleTerms {
    /// Everything.
    pub const ALL: Self = Self {
        weights: true,
        latency: true,
        errors: true,
        class_costs: true,
        affinity: true,
        class_shedding: true,
        peers: true,
    };

    /// What the parameters come to when only these terms act.
    pub(crate) fn applied_to(self, parameters: RuleParameters) -> RuleParameters {
        let on = |acts: bool, value: f32| if acts { value } else { 0.0 };
        RuleParameters {
            weight_exponent: on(self.weights, parameters.weight_exponent),
            latency_exponent: on(self.latency, parameters.latency_exponent),
            error_exponent: on(self.errors, parameters.error_exponent),
            affinity_proxies: on(self.affinity, parameters.affinity_proxies),
            ..parameters
        }
    }
}

impl Default for RuleTerms {
    fn default() -> Self {
        Self::ALL
    }
}

impl From<v1::RuleTerms> for RuleTerms {
    fn from(wire: v1::RuleTerms) -> Self {
        let on = |said: Option<bool>| said.unwrap_or(true);
        Self {
            weights: on(wire.weights),
            latency: on(wire.latency),
            errors: on(wire.errors),
            class_costs: on(wire.class_costs),
            affinity: on(wire.affinity),
            class_shedding: on(wire.class_shedding),
            peers: on(wire.peers),
        }
    }
}

impl RequestClasses {
    pub(super) fn check(wire: v1::RequestClasses, check: &Check) -> Result<Self, InvalidResource> {
        let header = match &*wire.header {
            "" => None,
            name => {
                let header = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name.len() <= HEADER_BYTES_MAX);
                let error = || {
                    let reason = format!("{name:?} is not a header name of at most {HEADER_BYTES_MAX} bytes");
                    check.error("classes.header", reason)
                };
                Some(header.ok_or_else(error)?)
            }
        };
        check.that(wire.priorities.len() <= PRIORITIES_MAX, "classes.priorities", || {
            format!("{} priorities: at most {PRIORITIES_MAX}", wire.priorities.len())
        })?;
        let mut priorities = Vec::with_capacity(wire.priorities.len());
        for (index, v1::ClassPriority { r#match: pattern, priority }) in wire.priorities.into_iter().enumerate() {
            let field = |name: &str| format!("classes.priorities[{index}].{name}");
            let fits = (1..=PATTERN_BYTES_MAX).contains(&pattern.len());
            check.that(fits, field("match"), || format!("must have 1 to {PATTERN_BYTES_MAX} bytes"))?;
            check.that((0.0..=1.0).contains(&priority), field("priority"), || {
                format!("{priority} is no share: 0..=1")
            })?;
            priorities.push(ClassPriority { pattern, priority });
        }
        Ok(Self { enabled: wire.enabled.unwrap_or(true), header, priorities })
    }

    /// The priority of a class of this name, 0..=1; 0 where nothing is said of it.
    pub fn priority_of(&self, name: &str) -> f32 {
        let found = self.priorities.iter().find(|priority| identity::matches(&priority.pattern, name));
        found.map_or(0.0, |found| found.priority)
    }
}

impl TryFrom<v1::ClassTable> for ClassTable {
    type Error = InvalidResource;

    fn try_from(wire: v1::ClassTable) -> Result<Self, InvalidResource> {
        let check = Check::new("ClassTable", &wire.backend);
        check.that(wire.classes.len() < CLASSES_MAX, "classes", || {
            format!("{} classes: at most {}", wire.classes.len(), CLASSES_MAX - 1)
        })?;
        let cost = |cost_ms: f32, field: String| {
            check.that(COST_MS.contains(&cost_ms), field, || {
                format!("{cost_ms} is not within {} and {} ms", COST_MS.start(), COST_MS.end())
            })
        };
        let mut keys = HashSet::with_capacity(wire.classes.len());
        let mut numbers = HashSet::with_capacity(wire.classes.len());
        let mut classes = Vec::with_capacity(wire.classes.len());
        for (index, class) in wire.classes.into_iter().enumerate() {
            let field = |name: &str| format!("classes[{index}].{name}");
            let key = ClassKey(class.key);
            check
                .that(keys.insert(key), field("key"), || format!("{key} stands there twice: keys must be distinct"))?;
            let number = u8::try_from(class.number).ok().filter(|number| (1..CLASSES_MAX as u8).contains(number));
            let number = number.filter(|number| numbers.insert(*number)).ok_or_else(|| {
                let reason = format!("{} is out of 1..={} or stands there twice", class.number, CLASSES_MAX - 1);
                check.error(field("number"), reason)
            })?;
            let fits = (1..=NAME_BYTES_MAX).contains(&class.name.len());
            check.that(fits, field("name"), || format!("must have 1 to {NAME_BYTES_MAX} bytes"))?;
            cost(class.cost_ms, field("cost_ms"))?;
            let share = |value: f32, name| {
                check.that((0.0..=1.0).contains(&value), field(name), || format!("{value} is no share: 0..=1"))
            };
            share(class.share, "share")?;
            share(class.priority, "priority")?;
            let v1::ClassCost { name, cost_ms, share, priority, .. } = class;
            classes.push(ClassCost { key, number, name, cost_ms, share, priority });
        }
        cost(wire.other_cost_ms, "other_cost_ms".to_owned())?;
        if let Some(index) = wire.factors.iter().position(|factor| !FACTORS.contains(factor)) {
            let reason = format!("{} is not within {} and {}", wire.factors[index], FACTORS.start(), FACTORS.end());
            return Err(check.error(format_args!("factors[{index}]"), reason));
        }
        if let Some(index) = wire.slots.iter().position(|slots| !(0.0..=1e6).contains(slots)) {
            let reason = format!("{} is not a number of slots: 0..=1000000", wire.slots[index]);
            return Err(check.error(format_args!("slots[{index}]"), reason));
        }
        Ok(Self {
            backend: wire.backend,
            generation: wire.generation,
            classes,
            other_cost_ms: wire.other_cost_ms,
            factors: wire.factors,
            slots: wire.slots,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> v1::ClassTable {
        let class = |key, name: &str| v1::ClassCost {
            key,
            number: key as u32,
            name: name.into(),
            cost_ms: 2.0,
            share: 0.5,
            priority: 0.0,
        };
        v1::ClassTable {
            backend: "b".into(),
            classes: vec![class(1, "GET /a"), class(2, "GET /b")],
            other_cost_ms: 1.0,
            ..Default::default()
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut v1::ClassTable), expected: &str) {
        let mut wire = table();
        change(&mut wire);
        assert_eq!(ClassTable::try_from(wire).unwrap_err().field, expected);
    }

    #[test]
    fn a_class_table_that_does_not_hold_is_refused_by_its_field() {
        assert!(ClassTable::try_from(table()).is_ok());
        check(|table| table.classes[1].key = 1, "classes[1].key");
        check(|table| table.classes[1].number = 1, "classes[1].number");
        check(|table| table.classes[1].number = 16, "classes[1].number");
        check(|table| table.classes[1].number = 0, "classes[1].number");
        check(|table| table.classes[0].name.clear(), "classes[0].name");
        check(|table| table.classes[0].name = "x".repeat(NAME_BYTES_MAX + 1), "classes[0].name");
        check(|table| table.classes[1].cost_ms = 0.0, "classes[1].cost_ms");
        check(|table| table.classes[1].share = f32::NAN, "classes[1].share");
        check(|table| table.classes[1].priority = 1.5, "classes[1].priority");
        check(|table| table.other_cost_ms = f32::INFINITY, "other_cost_ms");
        check(|table| table.factors = vec![1.0, -1.0], "factors[1]");
        check(|table| table.slots = vec![f32::NAN], "slots[0]");
        check(
            |table| table.classes = (0..16).map(|key| v1::ClassCost { key, ..table.classes[0].clone() }).collect(),
            "classes",
        );
    }

    #[test]
    fn what_is_said_of_classes_is_checked_and_defaults_to_telling_apart() {
        let classes = |wire| RequestClasses::check(wire, &Check::new("Backend", "b"));
        let field = |wire| classes(wire).unwrap_err().field;
        assert_eq!(classes(v1::RequestClasses::default()), Ok(RequestClasses::default()));
        assert_eq!(field(v1::RequestClasses { header: "x y".into(), ..Default::default() }), "classes.header");
        let priorities = |pattern: &str, priority| v1::RequestClasses {
            priorities: vec![v1::ClassPriority { r#match: pattern.into(), priority }],
            ..Default::default()
        };
        assert_eq!(field(priorities("", 1.0)), "classes.priorities[0].match");
        assert_eq!(field(priorities("a", 1.1)), "classes.priorities[0].priority");
    }

    #[test]
    fn a_priority_is_for_names_and_for_values_of_the_header() {
        let priority = |pattern: &str, priority| ClassPriority { pattern: pattern.into(), priority };
        let classes = RequestClasses {
            priorities: vec![priority("GET /health*", 1.0), priority("report", 0.2), priority("GET *", 0.5)],
            ..Default::default()
        };
        for (name, expected) in [
            ("GET /healthz", 1.0),
            ("GET /users/{}", 0.5),
            ("x-request-class: report", 0.2),
            ("x-request-class: reports", 0.0),
            ("POST /health", 0.0),
        ] {
            assert_eq!(classes.priority_of(name), expected, "{name}");
        }
    }
}
