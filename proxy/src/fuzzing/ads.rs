//! What a controller pushes. Whatever is accepted must hold: it is the same when it has been written and read once more, and a table made of
//! it picks only what may be picked.

use prost::Message;
use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    api::{self, v1},
    backend::Backend,
    change::{Change, TYPES, WireResource},
    config::{Algorithm, BackendConfig, EndpointState, InvalidResource, WeightTable},
    pick::PickRequest,
    time::Timestamp,
};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

/// The first byte says of which type the message is.
pub fn ads(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    match TYPES[usize::from(*first) % TYPES.len()] {
        kind @ api::BACKEND_TYPE => again::<v1::Backend>(kind, body, |wire| &wire.name),
        kind @ api::HTTP_ROUTE_TYPE => again::<v1::HttpRoute>(kind, body, |wire| &wire.name),
        kind @ api::LISTENER_TYPE => again::<v1::Listener>(kind, body, |wire| &wire.name),
        kind @ api::WEIGHT_TABLE_TYPE => again::<v1::WeightTable>(kind, body, |wire| &wire.backend),
        kind @ api::ERROR_TABLE_TYPE => again::<v1::ErrorTable>(kind, body, |wire| &wire.backend),
        kind @ api::CLASS_TABLE_TYPE => again::<v1::ClassTable>(kind, body, |wire| &wire.backend),
        kind => again::<v1::PeerTable>(kind, body, |wire| &wire.name),
    }
}

/// Reads a message, and reads it once more when it has been written.
fn again<W: Message + Default>(kind: &'static str, body: &[u8], name: fn(&W) -> &String) {
    let Ok(wire) = W::decode(body) else {
        let change = decode(kind, "", body);
        assert!(change.is_err(), "what does not decode is refused");
        return;
    };
    let first = decode(kind, name(&wire), body);
    let second = decode(kind, name(&wire), &wire.encode_to_vec());
    match (&first, &second) {
        // Maps have no order; what is in them is in the errors and values all the same.
        (Ok(a), Ok(b)) => assert_eq!(format!("{a:?}").len(), format!("{b:?}").len(), "read again"),
        (Err(a), Err(b)) => assert_eq!(a.resource, b.resource),
        _ => panic!("{first:?} and then {second:?}"),
    }
    if let Err(InvalidResource { resource, field, reason }) = &first {
        assert!(!resource.is_empty() && !field.is_empty() && !reason.is_empty(), "an error names what is wrong");
    }
    if let Ok(Change::Backends(backends, _)) = first {
        // Changes of endpoints that are not there are refused.
        let whole = backends.into_iter().filter_map(|update| update.resolve(None).ok());
        whole.for_each(|config| picks(&Backend::new(config, None, NOW)));
    }
}

fn decode(kind: &str, name: &str, body: &[u8]) -> Result<Change, InvalidResource> {
    Change::decode(kind, &[WireResource { name, type_url: kind, body }], Vec::new())
}

/// A backend picks an endpoint if one is ready, and none that is not.
fn picks(backend: &Backend) {
    let ready = |index: usize| backend.endpoints()[index].config.state == EndpointState::Ready;
    let some = (0..backend.endpoints().len()).any(ready);
    let mut rng = SmallRng::seed_from_u64(1);
    for key in 0..8 {
        let picked = backend.pick(&PickRequest { key, ..Default::default() }, NOW, &mut rng);
        assert_eq!(picked.is_some(), some, "{:?}", backend.config());
        assert!(picked.is_none_or(ready), "{picked:?}");
    }
}

/// Four bytes a weight; of the first byte, the algorithm and whether there are adjustments.
pub fn weights(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let values: Vec<f32> = rest
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .take(64)
        .collect();
    let (weights, adjustments) =
        if first & 0x80 == 0 { (&values[..], &[][..]) } else { values.split_at(values.len() / 2) };
    let endpoint = |key: usize| v1::Endpoint {
        key: key as u64 + 1,
        host: "10.0.0.1".to_owned(),
        port: 80,
        name: format!("pod-{key}"),
        ..Default::default()
    };
    let algorithm = Algorithm::SPELLINGS[usize::from(first & 0x7f) % Algorithm::SPELLINGS.len()].0;
    let wire = v1::Backend {
        name: "fuzz/web:80".to_owned(),
        generation: 7,
        endpoints: (0..weights.len()).map(endpoint).collect(),
        algorithm: v1::Algorithm::from(algorithm).into(),
        ..Default::default()
    };
    let backend = Backend::new(BackendConfig::try_from(wire).unwrap(), None, NOW);
    let table = v1::WeightTable {
        backend: "fuzz/web:80".to_owned(),
        generation: 7,
        tick: 1,
        weights: weights.to_vec(),
        adjustments: adjustments.to_vec(),
        proxies: 1,
        parameters: Some(v1::RuleParameters {
            exponent: 1.0,
            offset: 1.0,
            latency_reference_ms: 10.0,
            ..Default::default()
        }),
        ..Default::default()
    };
    let sound = |values: &[f32]| values.iter().all(|value| value.is_normal() && *value > 0.0);
    let Ok(table) = WeightTable::try_from(table) else {
        assert!(!sound(weights) || !sound(adjustments), "{weights:?} {adjustments:?}");
        return;
    };
    assert!(sound(&table.weights) && sound(&table.adjustments), "{table:?}");
    let Ok(Some(weighted)) = backend.with_weights(&table, NOW) else { return picks(&backend) };
    let effective: Vec<f32> = weighted.effective_weights().into_iter().flatten().collect();
    assert!(effective.iter().all(|weight| weight.is_finite() && *weight >= 0.0), "{effective:?}");
    // The twin: each over the mean.
    let sum: f64 = table.weights.iter().map(|weight| f64::from(*weight)).sum();
    for (weight, effective) in table.weights.iter().zip(&effective) {
        let expected = f64::from(*weight) / sum * table.weights.len() as f64;
        let off = (f64::from(*effective) - expected).abs();
        assert!(off <= 1e-4 * expected.max(1.0), "{effective} for {weight}: expected {expected}");
    }
    picks(&weighted);
}
