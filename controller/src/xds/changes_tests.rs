//! What is sent as changes is the list that would be sent whole.

use proptest::prelude::*;

use super::*;
use crate::fixtures::{self, session_keys};
use crate::xds::Resource;
use trimtab_model::observation::EndpointKey;

/// A backend with these endpoints by number, some of them not ready.
fn spec(endpoints: &[(u16, bool)]) -> BackendSpec {
    let mut spec = fixtures::backend("a/b:80", 0);
    let endpoint = |&(number, ready): &(u16, bool)| {
        let [high, low] = number.to_be_bytes();
        Arc::new(EndpointSpec {
            key: EndpointKey(u64::from(number)),
            name: format!("pod-{number}"),
            address: format!("10.0.{high}.{low}:80"),
            ready,
            ..(*fixtures::backend("a/b:80", 1).endpoints[0]).clone()
        })
    };
    spec.endpoints = endpoints.iter().map(endpoint).collect();
    spec
}

/// The slow twin of what proxies do.
fn applied(mut list: Vec<v1::Endpoint>, changes: &v1::EndpointChanges) -> Vec<v1::Endpoint> {
    for step in &changes.steps {
        step.removed.iter().rev().for_each(|at| drop(list.remove(*at as usize)));
        step.positions.iter().zip(&step.endpoints).for_each(|(at, one)| list.insert(*at as usize, one.clone()));
    }
    list
}

fn decoded(bytes: &[u8]) -> v1::Backend {
    v1::Backend::decode(bytes).expect("a backend")
}

fn version_of(endpoints: &[v1::Endpoint]) -> u64 {
    let fingerprint = |one: &v1::Endpoint| {
        let ready = one.state() == v1::endpoint::State::Ready;
        api::endpoint_fingerprint(one.key, (&one.host, one.port as u16), &one.name, &one.zone, ready)
    };
    api::endpoints_version(endpoints.iter().map(fingerprint))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn changes_from_any_version_come_to_the_newest(
        edits in prop::collection::vec(prop::collection::vec((0usize..400, any::<u16>(), any::<bool>()), 1..12), 1..40),
    ) {
        let mut list: Vec<(u16, bool)> = (0..300).map(|number| (number * 3, true)).collect();
        let mut resources = vec![Resource::backend(&spec(&list), &session_keys(), None)];
        for edit in edits {
            for (at, number, ready) in edit {
                match list.binary_search_by_key(&number, |(number, _)| *number) {
                    Ok(at) => list[at].1 = ready,
                    Err(place) if ready => list.insert(place, (number, true)),
                    Err(_) => drop(list.remove(at % list.len())),
                }
            }
            let last = &resources[resources.len() - 1];
            let next = Resource::backend(&spec(&list), &session_keys(), Some(last));
            if next.version != last.version {
                resources.push(next);
            }
        }
        let (newest, older) = resources.split_last().expect("at least one");
        let whole = decoded(newest.bytes());
        prop_assert_eq!(version_of(&whole.endpoints), whole.endpoints_version);
        let mut told = 0;
        for resource in older {
            let Some(bytes) = newest.since(&resource.version) else { continue };
            told += 1;
            prop_assert!(bytes.len() < newest.bytes().len());
            let (before, part) = (decoded(resource.bytes()), decoded(&bytes));
            let changes = part.changes.as_ref().expect("changes");
            prop_assert_eq!(changes.base, before.endpoints_version);
            prop_assert_eq!(part.endpoints_version, whole.endpoints_version);
            prop_assert_eq!(&applied(before.endpoints, changes), &whole.endpoints);
            prop_assert_eq!(v1::Backend { changes: None, ..part }, v1::Backend { endpoints: Vec::new(), ..whole.clone() });
        }
        prop_assert!(older.is_empty() || told > 0, "the last version at least");
    }
}

#[test]
fn the_same_content_has_the_same_version_whatever_came_before() {
    let list: Vec<(u16, bool)> = (0..100).map(|number| (number, true)).collect();
    let fresh = Resource::backend(&spec(&list), &session_keys(), None);
    let other = Resource::backend(&spec(&list[1..]), &session_keys(), Some(&fresh));
    let back = Resource::backend(&spec(&list), &session_keys(), Some(&other));
    assert_eq!(fresh.version, back.version);
    assert_ne!(fresh.version, other.version);
    assert_eq!(fresh.bytes(), back.bytes());
}

#[test]
fn few_endpoints_and_great_changes_are_sent_whole() {
    let list: Vec<(u16, bool)> = (0..200).map(|number| (number, true)).collect();
    let many = Resource::backend(&spec(&list), &session_keys(), None);
    let few = Resource::backend(&spec(&list[..20]), &session_keys(), Some(&many));
    assert!(few.since(&many.version).is_none());
    let others: Vec<(u16, bool)> = (300..500).map(|number| (number, true)).collect();
    assert!(Resource::backend(&spec(&others), &session_keys(), Some(&many)).since(&many.version).is_none());
    let one_less = Resource::backend(&spec(&list[1..]), &session_keys(), Some(&many));
    assert!(one_less.since(&many.version).is_some_and(|part| part.len() < 200));
    assert!(one_less.since("unknown").is_none());
}

#[test]
fn keys_of_sessions_are_put_in_for_proxies_and_others_make_another_version() {
    let mut spec = spec(&[(1, true)]);
    let of = |spec: &BackendSpec, keys: &SessionKeys| Resource::backend(spec, keys, None);
    assert_eq!(decoded(of(&spec, &session_keys()).bytes()).session, None);
    spec.resource.session = Some(v1::SessionPersistence { cookie: "s".to_owned(), ..Default::default() });
    let resource = of(&spec, &session_keys());
    assert_eq!(decoded(resource.bytes()).session.unwrap().keys, session_keys().of("a/b:80"));
    assert_eq!(resource.version, of(&spec, &session_keys()).version, "controllers with the same keys agree");
    assert_ne!(resource.version, of(&spec, &SessionKeys::draw().unwrap()).version);
}
