//! A pushed response as a whole: decoded and validated before any of it is applied.

use prost::Message;

use crate::{
    api::{self, v1},
    config::{BackendUpdate, ClassTable, ErrorTable, InvalidResource, PeerTable, WeightTable},
    health::Checked,
    route::{ListenerConfig, RouteConfig},
};

/// One resource as it stands on the wire.
#[derive(Debug, Clone, Copy)]
pub struct WireResource<'a> {
    /// Its name.
    pub name: &'a str,
    /// Type URL of its body; empty if there is no body.
    pub type_url: &'a str,
    /// The encoded message.
    pub body: &'a [u8],
}

/// Validated resources of one type: those that are new or changed, and names of those that are gone.
#[derive(Debug, Clone)]
pub enum Change {
    /// Backends.
    Backends(Vec<BackendUpdate>, Vec<String>),
    /// Listeners.
    Listeners(Vec<ListenerConfig>, Vec<String>),
    /// Routes.
    Routes(Vec<RouteConfig>, Vec<String>),
    /// Weights. One that is gone changes nothing: the last weights stand, and age.
    Weights(Vec<WeightTable>),
    /// Pooled errors; the same.
    Errors(Vec<ErrorTable>),
    /// What is known of classes of requests; the same.
    Classes(Vec<ClassTable>),
    /// The same, found out by the proxy itself, which has no controller.
    OwnClasses(Vec<ClassTable>),
    /// Who the other proxies are; the same.
    Peers(Vec<PeerTable>),
    /// What this proxy's active health checks found out.
    Checked(Vec<Checked>),
}

/// The types that a proxy subscribes to, in the order in which they are to be applied.
pub const TYPES: [&str; 7] = [
    api::BACKEND_TYPE,
    api::HTTP_ROUTE_TYPE,
    api::LISTENER_TYPE,
    api::WEIGHT_TABLE_TYPE,
    api::ERROR_TABLE_TYPE,
    api::CLASS_TABLE_TYPE,
    api::PEER_TABLE_TYPE,
];

impl Change {
    /// Decodes and validates a response.
    ///
    /// # Errors
    /// Names the first resource that does not hold, and its field.
    pub fn decode(
        type_url: &str,
        resources: &[WireResource<'_>],
        removed: Vec<String>,
    ) -> Result<Self, InvalidResource> {
        Ok(match type_url {
            api::BACKEND_TYPE => Self::Backends(all::<v1::Backend, _>(type_url, resources, |r| &r.name)?, removed),
            api::LISTENER_TYPE => Self::Listeners(all::<v1::Listener, _>(type_url, resources, |r| &r.name)?, removed),
            api::HTTP_ROUTE_TYPE => Self::Routes(all::<v1::HttpRoute, _>(type_url, resources, |r| &r.name)?, removed),
            api::WEIGHT_TABLE_TYPE => Self::Weights(all::<v1::WeightTable, _>(type_url, resources, |r| &r.backend)?),
            api::CLASS_TABLE_TYPE => Self::Classes(all::<v1::ClassTable, _>(type_url, resources, |r| &r.backend)?),
            api::ERROR_TABLE_TYPE => Self::Errors(all::<v1::ErrorTable, _>(type_url, resources, |r| &r.backend)?),
            api::PEER_TABLE_TYPE => Self::Peers(all::<v1::PeerTable, _>(type_url, resources, |r| &r.name)?),
            other => {
                return Err(InvalidResource {
                    resource: "response".to_owned(),
                    field: "type_url".to_owned(),
                    reason: format!("{other:?} was not subscribed to"),
                });
            }
        })
    }
}

fn all<W, T>(type_url: &str, resources: &[WireResource<'_>], name: fn(&W) -> &str) -> Result<Vec<T>, InvalidResource>
where
    W: Message + Default,
    T: TryFrom<W, Error = InvalidResource>,
{
    let kind = type_url.rsplit('.').next().unwrap_or(type_url);
    let one = |resource: &WireResource<'_>| {
        let error = |field: &str, reason: String| InvalidResource {
            resource: format!("{kind} {}", resource.name),
            field: field.to_owned(),
            reason,
        };
        if resource.type_url != type_url {
            return Err(error("resource.type_url", format!("{:?} in a response of {type_url}", resource.type_url)));
        }
        let wire =
            W::decode(resource.body).map_err(|reason| error("resource", format!("does not decode: {reason}")))?;
        // Removal goes by the resource's name; another one inside could never be removed.
        if name(&wire) != resource.name {
            return Err(error("name", format!("{:?} inside a resource of another name", name(&wire))));
        }
        T::try_from(wire)
    };
    resources.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(type_url: &str, name: &str, body: &[u8], expected: &str) {
        let resource = WireResource { name, type_url: api::LISTENER_TYPE, body };
        let error = Change::decode(type_url, &[resource], Vec::new()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_does_not_hold_is_named() {
        let listener = v1::Listener { name: "l".into(), address: "localhost".into(), ..Default::default() };
        let body = listener.encode_to_vec();
        check(api::LISTENER_TYPE, "l", &body, "Listener l: address: \"localhost\" is not an IP address");
        check(api::LISTENER_TYPE, "m", &body, "Listener m: name: \"l\" inside");
        check(api::LISTENER_TYPE, "l", &[0xff], "Listener l: resource: does not decode");
        check(api::BACKEND_TYPE, "l", &body, "Backend l: resource.type_url");
        check("x", "l", &body, "was not subscribed to");
        let table = v1::ClassTable { backend: "b".into(), other_cost_ms: -1.0, ..Default::default() };
        let resource = WireResource { name: "b", type_url: api::CLASS_TABLE_TYPE, body: &table.encode_to_vec() };
        let error = Change::decode(api::CLASS_TABLE_TYPE, &[resource], Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "ClassTable b: other_cost_ms: -1 is not within 0.001 and 3600000 ms");
    }
}
