//! Session persistence, by the names of the Gateway API (GEP-1619).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// A client that was answered by an endpoint goes there again while it is there and well; otherwise where the algorithm sends it, and then there.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    /// Name of the cookie or header. Default: trimtab-session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), extend("default" = "trimtab-session"))]
    pub session_name: Option<String>,
    /// What the client holds. Default: Cookie.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    #[schemars(extend("default" = "Cookie"))]
    pub kind: Option<SessionType>,
    /// A session ends after this long, in whole seconds. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<Duration>,
    /// And after this long without a request, in whole seconds. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// With type Cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

/// What the client holds.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SessionType {
    /// A cookie.
    #[default]
    Cookie,
    /// A header of answers, which the client sends along with its requests.
    Header,
}

/// How the cookie is set.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CookieConfig {
    /// How long the client keeps it. Default: Session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = "Session"))]
    pub lifetime_type: Option<LifetimeType>,
}

/// How long a client keeps a cookie.
#[derive(Serialize, Deserialize, JsonSchema, Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LifetimeType {
    /// As long as `absoluteTimeout` says, which is then needed.
    Permanent,
    /// As long as its own session.
    #[default]
    Session,
}
