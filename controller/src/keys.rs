//! Maps by endpoint, of which thousands are looked up a tick.

use std::{collections::HashMap, hash::BuildHasherDefault};

use trimtab_model::observation::EndpointKey;
use trimtab_proxy::keys::KeyHasher;

/// A map by endpoint.
pub type KeyMap<V> = HashMap<EndpointKey, V, BuildHasherDefault<KeyHasher>>;
