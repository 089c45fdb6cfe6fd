//! Statuses that come and go, against what is written for them.

use gateway_api::httproutes::HttpRouteParentRefs;

use super::*;
use crate::gateway::status::{ClassStatus, ParentStatus, PolicyStatus, RouteStatus, reason};

fn subject(generation: i64) -> Subject {
    Subject { namespace: "a".to_owned(), name: "x".to_owned(), generation: Some(generation) }
}

fn route(generation: i64, condition: Condition) -> Statuses {
    let parent = HttpRouteParentRefs { name: "g".to_owned(), ..HttpRouteParentRefs::default() };
    let parents = vec![ParentStatus { parent, conditions: vec![condition] }];
    Statuses {
        routes: vec![RouteStatus { kind: "HTTPRoute", subject: subject(generation), parents }],
        ..Statuses::default()
    }
}

fn currents(kind: &'static str, status: Value) -> Currents {
    let current = Current { uid: "u".to_owned(), resource_version: "7".to_owned(), status };
    Currents::from([(ObjectId::new(kind, "a", "x"), current)])
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// What is written at this second, if anything.
fn write(statuses: &Statuses, currents: &Currents, second: i64) -> Option<Write> {
    let mut writes = writes(statuses, currents, &HashMap::new(), at(second));
    assert!(writes.len() <= 1);
    writes.pop()
}

#[test]
fn what_was_written_is_not_written_again() {
    let statuses = route(1, Condition::yes("Accepted", reason::ACCEPTED));
    let first = write(&statuses, &currents("HTTPRoute", Value::Null), 10).unwrap();
    assert!(first.news.is_empty());
    let back = currents("HTTPRoute", first.status);
    assert_eq!(write(&statuses, &back, 99), None);
}

#[test]
fn a_transition_has_its_time_and_what_is_only_observed_anew_keeps_the_old_one() {
    let yes = |generation| route(generation, Condition::yes("Accepted", reason::ACCEPTED));
    let first = write(&yes(1), &currents("HTTPRoute", Value::Null), 10).unwrap();
    let since = |write: &Write| write.status["parents"][0]["conditions"][0]["lastTransitionTime"].clone();
    assert_eq!(since(&first), "1970-01-01T00:00:10Z");
    let second = write(&yes(2), &currents("HTTPRoute", first.status.clone()), 20).unwrap();
    assert_eq!(since(&second), since(&first));
    let no = route(2, Condition::no("Accepted", reason::NO_MATCHING_PARENT, "why"));
    let third = write(&no, &currents("HTTPRoute", second.status), 30).unwrap();
    assert_eq!(since(&third), "1970-01-01T00:00:30Z");
    assert_eq!(third.news, [(reason::NO_MATCHING_PARENT, "why".to_owned())]);
}

#[test]
fn what_another_controller_wrote_stays() {
    let theirs = json!({ "parentRef": { "name": "other" }, "controllerName": "example.com/c", "conditions": [] });
    let statuses = route(1, Condition::yes("Accepted", reason::ACCEPTED));
    let current = currents("HTTPRoute", json!({ "parents": [theirs] }));
    let first = write(&statuses, &current, 10).unwrap();
    assert_eq!(first.status["parents"][0], theirs);
    assert_eq!(first.status["parents"][1]["controllerName"], CONTROLLER_NAME);
    // The route leaves us: our word goes, theirs stays.
    let last = write(&Statuses::default(), &currents("HTTPRoute", first.status), 20).unwrap();
    assert_eq!(last.status, json!({ "parents": [theirs] }));
    assert_eq!(write(&Statuses::default(), &currents("HTTPRoute", last.status), 30), None);
}

#[test]
fn conditions_of_others_beside_ours_and_another_order_are_no_difference() {
    let conditions = vec![Condition::yes("Accepted", reason::ACCEPTED)];
    let classes = vec![ClassStatus { subject: subject(1), conditions }];
    let statuses = Statuses { classes, ..Statuses::default() };
    let first = write(&statuses, &currents("GatewayClass", Value::Null), 10).unwrap();
    let mut back = first.status;
    back["conditions"].as_array_mut().unwrap().insert(0, json!({ "type": "SupportedVersion" }));
    assert_eq!(write(&statuses, &currents("GatewayClass", back), 20), None);
}

#[test]
fn what_was_written_counts_before_it_comes_back() {
    let statuses = route(1, Condition::yes("Accepted", reason::ACCEPTED));
    let old = currents("HTTPRoute", Value::Null);
    let first = write(&statuses, &old, 10).unwrap();
    let ahead = HashMap::from([(first.object.clone(), Current { status: first.status, ..first.current })]);
    assert_eq!(writes(&statuses, &old, &ahead, at(20)), []);
}

#[test]
fn an_object_that_is_gone_gets_no_status() {
    assert_eq!(write(&route(1, Condition::yes("Accepted", reason::ACCEPTED)), &Currents::new(), 10), None);
}

#[test]
fn a_policy_that_conflicts_says_so_once() {
    let ancestor = crate::policy_status::AncestorRef { name: "s".to_owned(), ..Default::default() };
    let condition = Condition::no("Accepted", reason::CONFLICTED, "older");
    let policies = vec![PolicyStatus { subject: subject(3), ancestors: vec![(ancestor, condition)] }];
    let statuses = Statuses { policies, ..Statuses::default() };
    let first = write(&statuses, &currents("BackendTrafficPolicy", Value::Null), 10).unwrap();
    assert_eq!(first.status["ancestors"][0]["conditions"][0]["observedGeneration"], 3);
    assert_eq!(first.news.len(), 1);
    let generation = Statuses {
        policies: statuses.policies.iter().map(|p| PolicyStatus { subject: subject(4), ..p.clone() }).collect(),
        ..Statuses::default()
    };
    let second = write(&generation, &currents("BackendTrafficPolicy", first.status), 20).unwrap();
    assert!(second.news.is_empty(), "the same trouble is no news");
}
