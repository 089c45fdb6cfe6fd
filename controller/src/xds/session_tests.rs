//! The protocol of one stream, as a proxy would live it.

use super::*;
use crate::xds::Publisher;
use envoy_types::pb::google::rpc::Status;
use std::sync::Arc;
use trimtab_proxy::api::v1;

fn subscribe(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: kind.type_url().into(), ..Default::default() }
}

fn answer(response: &DeltaDiscoveryResponse, error: Option<&str>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: error.map(|message| Status { message: message.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

fn backend(name: &str, generation: u64) -> v1::Backend {
    v1::Backend { name: name.into(), generation, ..Default::default() }
}

fn publisher(backends: &[&str]) -> Publisher {
    let mut publisher = Publisher::default();
    for name in backends {
        publisher.set(Kind::Backend, name, &backend(name, 1));
    }
    publisher.publish();
    publisher
}

fn newest(publisher: &Publisher) -> Arc<Snapshot> {
    publisher.subscribe().borrow().clone()
}

/// Answers everything with an ACK and returns what was sent, in order, as "type:name" and "-type:name".
fn drain(session: &mut Session, snapshot: &Snapshot) -> Vec<String> {
    let mut seen = Vec::new();
    while let Some(response) = session.next(snapshot, false) {
        let short = response.type_url.rsplit('.').next().unwrap();
        seen.extend(names(&response).iter().map(|name| format!("{short}:{name}")));
        seen.extend(response.removed_resources.iter().map(|name| format!("-{short}:{name}")));
        session.receive(answer(&response, None));
    }
    seen
}

fn subscribed() -> Session {
    let mut session = Session::default();
    for kind in Kind::ALL {
        session.receive(subscribe(kind));
    }
    session
}

#[test]
fn the_first_push_adds_in_order_and_removals_go_backwards() {
    let mut publisher = publisher(&["b"]);
    publisher.set(Kind::ErrorTable, "b", &v1::ErrorTable::default());
    publisher.set(Kind::WeightTable, "b", &v1::WeightTable { tick: 1, ..Default::default() });
    publisher.set(Kind::HttpRoute, "r", &v1::HttpRoute { name: "r".into(), ..Default::default() });
    publisher.set(Kind::Listener, "l", &v1::Listener { name: "l".into(), ..Default::default() });
    publisher.publish();
    let mut session = subscribed();
    assert_eq!(
        drain(&mut session, &newest(&publisher)),
        ["Backend:b", "HttpRoute:r", "Listener:l", "WeightTable:b", "ErrorTable:b"]
    );
    assert!(session.in_sync(&newest(&publisher)));

    for kind in Kind::ALL {
        publisher.retain(kind, &Default::default());
    }
    publisher.publish();
    assert!(!session.in_sync(&newest(&publisher)));
    assert_eq!(
        drain(&mut session, &newest(&publisher)),
        ["-ErrorTable:b", "-WeightTable:b", "-Listener:l", "-HttpRoute:r", "-Backend:b"]
    );
    assert!(session.in_sync(&newest(&publisher)));
}

#[test]
fn a_type_waits_for_the_subscription_to_those_before_it() {
    let publisher = publisher(&["b"]);
    let mut session = Session::default();
    session.receive(subscribe(Kind::Listener));
    assert!(session.next(&newest(&publisher), true).is_none());
    session.receive(subscribe(Kind::Backend));
    let first = session.next(&newest(&publisher), true).unwrap();
    assert_eq!(names(&first), ["b"]);
    assert!(session.next(&newest(&publisher), true).is_none(), "the listener waits for the answer");
}

#[test]
fn only_what_changed_is_sent_and_while_unanswered_only_the_newest() {
    let mut publisher = publisher(&["a", "b"]);
    let mut session = subscribed();
    drain(&mut session, &newest(&publisher));

    publisher.set(Kind::Backend, "b", &backend("b", 2));
    publisher.publish();
    let second = session.next(&newest(&publisher), false).unwrap();
    assert_eq!(names(&second), ["b"]);
    for generation in 3..10 {
        publisher.set(Kind::Backend, "b", &backend("b", generation));
        publisher.publish();
        assert!(session.next(&newest(&publisher), false).is_none());
    }
    session.receive(answer(&second, None));
    let third = session.next(&newest(&publisher), false).unwrap();
    let sent = third.resources[0].resource.as_ref().unwrap();
    let sent: v1::Backend = prost::Message::decode(&*sent.value).unwrap();
    assert_eq!(sent.generation, 9);
}

#[test]
fn a_refused_version_is_not_sent_again_and_a_fixed_one_is() {
    let mut publisher = publisher(&["a"]);
    let mut session = subscribed();
    let first = session.next(&newest(&publisher), false).unwrap();
    session.receive(answer(&first, Some("a: endpoints[0].port: 0 is not a port")));
    assert_eq!(drain(&mut session, &newest(&publisher)), Vec::<String>::new());
    assert_eq!(session.nacks, 1);
    assert_eq!(session.last_nack.as_deref(), Some("a: endpoints[0].port: 0 is not a port"));
    assert!(!session.in_sync(&newest(&publisher)));

    publisher.set(Kind::Backend, "a", &backend("a", 2));
    publisher.publish();
    assert_eq!(drain(&mut session, &newest(&publisher)), ["Backend:a"]);
    assert!(session.in_sync(&newest(&publisher)));
}

#[test]
fn one_bad_resource_does_not_keep_the_others_back() {
    let publisher = publisher(&["a", "b", "c", "d", "e"]);
    let snapshot = newest(&publisher);
    let mut session = subscribed();
    let mut accepted = Vec::new();
    let mut responses = 0;
    while let Some(response) = session.next(&snapshot, false) {
        responses += 1;
        assert!(responses < 20, "must end");
        let bad = names(&response).contains(&"c");
        if !bad {
            accepted.extend(names(&response).iter().map(ToString::to_string));
        }
        session.receive(answer(&response, bad.then_some("c is bad")));
    }
    accepted.sort();
    assert_eq!(accepted, ["a", "b", "d", "e"]);
}

#[test]
fn after_a_reconnect_only_the_difference_is_sent() {
    let publisher = publisher(&["a", "b"]);
    let snapshot = newest(&publisher);
    let mut session = Session::default();
    let versions = [
        ("a".to_owned(), snapshot.of(Kind::Backend)["a"].version.to_string()),
        ("b".to_owned(), "of another time".to_owned()),
        ("gone".to_owned(), "1".to_owned()),
    ];
    session.receive(DeltaDiscoveryRequest { initial_resource_versions: versions.into(), ..subscribe(Kind::Backend) });
    assert_eq!(drain(&mut session, &snapshot), ["Backend:b", "-Backend:gone"]);
}

#[test]
fn stale_nonces_and_unknown_types_are_ignored() {
    let publisher = publisher(&["a"]);
    let mut session = subscribed();
    let first = session.next(&newest(&publisher), false).unwrap();
    session.receive(DeltaDiscoveryRequest { response_nonce: "77".into(), ..subscribe(Kind::Backend) });
    session.receive(DeltaDiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..Default::default() });
    assert!(session.next(&newest(&publisher), false).is_none());
    session.receive(answer(&first, None));
    assert_eq!((session.acks, session.nacks), (1, 0));
}

#[test]
fn large_sets_are_sent_in_pieces() {
    let mut publisher = Publisher::default();
    for index in 0..8 {
        let name = format!("b{index}");
        let endpoint = v1::Endpoint { name: "x".repeat(400_000), ..Default::default() };
        publisher.set(Kind::Backend, &name, &v1::Backend { endpoints: vec![endpoint], ..backend(&name, 1) });
    }
    publisher.publish();
    let mut session = subscribed();
    let first = session.next(&newest(&publisher), false).unwrap();
    assert_eq!(first.resources.len(), 2);
    session.receive(answer(&first, None));
    assert_eq!(drain(&mut session, &newest(&publisher)).len(), 6);
}

#[test]
fn what_waits_for_an_answer_to_another_type_is_not_forgotten() {
    let mut publisher = publisher(&["a"]);
    let table = |generation| v1::WeightTable { generation, ..Default::default() };
    publisher.set(Kind::WeightTable, "a", &table(1));
    publisher.publish();
    let mut session = subscribed();
    drain(&mut session, &newest(&publisher));
    publisher.set(Kind::Backend, "a", &backend("a", 2));
    publisher.set(Kind::WeightTable, "a", &table(2));
    publisher.publish();
    let first = session.next(&newest(&publisher), false).unwrap();
    assert!(session.next(&newest(&publisher), false).is_none());
    session.receive(answer(&first, None));
    assert_eq!(drain(&mut session, &newest(&publisher)), ["WeightTable:a"]);
}

use crate::fixtures::session_keys;

/// A backend of so many endpoints, the first of which has this number.
fn crowd(first: usize) -> crate::gateway::BackendSpec {
    let mut spec = crate::fixtures::backend("a", 300);
    spec.endpoints.drain(..first);
    spec
}

#[test]
fn what_was_acknowledged_is_sent_as_changes_and_what_was_refused_as_a_whole() {
    let mut publisher = Publisher::default();
    publisher.set_backend(&crowd(0), &session_keys());
    publisher.publish();
    let mut session = subscribed();
    drain(&mut session, &newest(&publisher));
    let sent = |response: &DeltaDiscoveryResponse| -> v1::Backend {
        prost::Message::decode(&*response.resources[0].resource.as_ref().unwrap().value).unwrap()
    };

    publisher.set_backend(&crowd(1), &session_keys());
    publisher.publish();
    let part = session.next(&newest(&publisher), false).unwrap();
    assert_eq!((sent(&part).endpoints.len(), sent(&part).changes.unwrap().steps.len()), (0, 1));
    for first in 2..6 {
        publisher.set_backend(&crowd(first), &session_keys());
        publisher.publish();
    }
    session.receive(answer(&part, None));
    let part = session.next(&newest(&publisher), false).unwrap();
    assert_eq!(sent(&part).changes.unwrap().steps.len(), 4, "from what it has, not from the last version");

    session.receive(answer(&part, Some("a: changes.base: begin with another list")));
    let whole = session.next(&newest(&publisher), false).unwrap();
    assert_eq!((sent(&whole).endpoints.len(), sent(&whole).changes), (295, None));
    session.receive(answer(&whole, None));
    assert!(session.next(&newest(&publisher), false).is_none());
    assert!(session.in_sync(&newest(&publisher)));

    publisher.set_backend(&crowd(6), &session_keys());
    publisher.publish();
    let part = session.next(&newest(&publisher), false).unwrap();
    assert!(sent(&part).changes.is_some(), "it goes on from there");
    session.receive(answer(&part, Some("a: something else")));
    let whole = session.next(&newest(&publisher), false).unwrap();
    session.receive(answer(&whole, Some("a: something else")));
    assert!(session.next(&newest(&publisher), false).is_none(), "what was refused as a whole is not sent again");
    assert!(!session.in_sync(&newest(&publisher)));
}
