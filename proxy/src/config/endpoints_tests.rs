//! Changes come to the very list that would have been sent whole, or to nothing.

use proptest::prelude::*;

use super::*;

fn endpoint(key: u64, state: i32) -> v1::Endpoint {
    v1::Endpoint {
        key,
        host: format!("10.0.{}.{}", key / 200, key % 200 + 1),
        port: 8080,
        name: format!("web-{key}"),
        zone: if key.is_multiple_of(2) { "a".to_owned() } else { String::new() },
        state,
    }
}

fn whole(endpoints: Vec<v1::Endpoint>) -> BackendConfig {
    let wire = v1::Backend { name: "default/web:80".to_owned(), endpoints, ..Default::default() };
    BackendUpdate::try_from(wire).unwrap().resolve(None).unwrap()
}

fn update(base: u64, steps: Vec<v1::EndpointStep>, version: u64) -> Result<BackendUpdate, InvalidResource> {
    BackendUpdate::try_from(v1::Backend {
        name: "default/web:80".to_owned(),
        generation: 9,
        endpoints_version: version,
        changes: Some(v1::EndpointChanges { base, steps }),
        ..Default::default()
    })
}

/// From one list to another, by taking out what is not to stay and putting in the rest.
fn step(before: &[v1::Endpoint], after: &[v1::Endpoint]) -> v1::EndpointStep {
    let mut stays: Vec<bool> = vec![false; before.len()];
    let mut from = 0;
    let mut step = v1::EndpointStep::default();
    for (position, endpoint) in after.iter().enumerate() {
        match before[from..].iter().position(|other| other == endpoint) {
            Some(offset) => {
                stays[from + offset] = true;
                from += offset + 1;
            }
            None => {
                step.positions.push(position as u32);
                step.endpoints.push(endpoint.clone());
            }
        }
    }
    step.removed = (0..before.len() as u32).filter(|index| !stays[*index as usize]).collect();
    step
}

fn lists() -> impl Strategy<Value = Vec<Vec<v1::Endpoint>>> {
    let list = prop::collection::btree_map(0u64..60, 0i32..2, 0..40);
    let list = list.prop_map(|all| all.into_iter().map(|(key, state)| endpoint(key, state)).collect::<Vec<_>>());
    // Now and then in another order.
    let list = (list, any::<u8>()).prop_map(|(mut list, turn)| {
        if turn < 64 && !list.is_empty() {
            let by = usize::from(turn) % list.len();
            list.rotate_left(by);
        }
        list
    });
    prop::collection::vec(list, 2..5)
}

proptest! {
    #[test]
    fn changes_come_to_the_list_that_would_be_sent_whole(lists in lists()) {
        let configs: Vec<BackendConfig> = lists.iter().cloned().map(whole).collect();
        let steps: Vec<_> = lists.windows(2).map(|pair| step(&pair[0], &pair[1])).collect();
        let (first, last) = (&configs[0], &configs[configs.len() - 1]);
        let changed = update(version(&first.endpoints), steps, version(&last.endpoints)).unwrap();
        let changed = changed.resolve(Some(first)).unwrap();
        prop_assert_eq!(&changed.endpoints, &last.endpoints);
        prop_assert_eq!(changed.generation, 9);
    }

    #[test]
    fn what_does_not_come_to_the_list_is_refused(
        lists in lists(), removed in prop::collection::btree_set(0u32..50, 0..6), positions in prop::collection::btree_set(0u32..50, 0..6),
    ) {
        let (before, after) = (whole(lists[0].clone()), whole(lists[1].clone()));
        let endpoints = positions.iter().map(|position| endpoint(u64::from(*position), 0)).collect();
        let step = v1::EndpointStep { removed: removed.into_iter().collect(), positions: positions.into_iter().collect(), endpoints };
        let change = update(version(&before.endpoints), vec![step], version(&after.endpoints)).unwrap();
        match change.resolve(Some(&before)) {
            Ok(config) => prop_assert_eq!(config.endpoints, after.endpoints),
            Err(error) => prop_assert!(error.field.starts_with("changes.steps"), "{}", error),
        }
    }

    #[test]
    fn lists_that_differ_in_anything_have_other_versions(lists in lists()) {
        let (a, b) = (whole(lists[0].clone()).endpoints, whole(lists[1].clone()).endpoints);
        prop_assert_eq!(version(&a) == version(&b), a == b);
    }
}

#[test]
fn what_has_not_changed_is_shared() {
    let before = whole((0..100).map(|key| endpoint(key, 0)).collect());
    let mut after: Vec<_> = (0..100).map(|key| endpoint(key, 0)).collect();
    after[40].state = 1;
    let version_after = version(&whole(after.clone()).endpoints);
    let step = v1::EndpointStep { removed: vec![40], positions: vec![40], endpoints: vec![after[40].clone()] };
    let changed =
        update(version(&before.endpoints), vec![step], version_after).unwrap().resolve(Some(&before)).unwrap();
    let shared = changed.endpoints.iter().zip(&before.endpoints).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!(shared, 99);
    assert_eq!(changed.endpoints[40].state, EndpointState::Draining);
}

#[test]
fn refusals_name_what_is_wrong() {
    let before = whole((0..4).map(|key| endpoint(key, 0)).collect());
    let base = version(&before.endpoints);
    let field = |step: v1::EndpointStep, base: u64| {
        let update = update(base, vec![step], base);
        update.and_then(|update| update.resolve(Some(&before))).unwrap_err().field
    };
    let step = |removed: &[u32], positions: &[u32], keys: &[u64]| v1::EndpointStep {
        removed: removed.to_vec(),
        positions: positions.to_vec(),
        endpoints: keys.iter().map(|key| endpoint(*key, 0)).collect(),
    };
    assert_eq!(field(step(&[], &[], &[]), base + 1), "changes.base");
    assert_eq!(field(step(&[4], &[], &[]), base), "changes.steps[0].removed");
    assert_eq!(field(step(&[], &[9], &[9]), base), "changes.steps[0].positions");
    assert_eq!(field(step(&[], &[0, 1], &[9]), base), "changes.steps[0].positions");
    assert_eq!(field(step(&[2, 1], &[], &[]), base), "changes.steps[0].removed");
    assert_eq!(field(step(&[], &[1], &[9]), base), "changes.steps", "another list than was said");
    let nameless = v1::EndpointStep {
        positions: vec![0],
        endpoints: vec![v1::Endpoint { host: String::new(), ..endpoint(9, 0) }],
        ..Default::default()
    };
    assert_eq!(field(nameless, base), "changes.steps[0].endpoints[0].host");
    // One that is there twice, in a list of the right version.
    let twice = [&before.endpoints[..], &before.endpoints[..1]].concat();
    let update = update(base, vec![step(&[], &[4], &[0])], version(&twice)).unwrap();
    let error = update.resolve(Some(&before)).unwrap_err();
    assert!(error.reason.contains("stands there twice"), "{error}");
    let unknown = self::update(base, vec![step(&[], &[], &[])], base).unwrap();
    assert_eq!(unknown.resolve(None).unwrap_err().field, "changes.base");
}
