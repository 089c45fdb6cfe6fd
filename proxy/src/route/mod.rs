//! Routing, as the Gateway API says (HTTPRoute, GEP-718 and the precedence rules of `HTTPRouteRule.matches`): which rule answers a
//! request that came in on a socket with a host, a method, a path, headers and a query.

pub mod cors;
pub mod filter;
pub mod hostname;
pub mod matcher;
pub mod rule;
pub mod split;
pub mod table;

pub use rule::{ListenerConfig, RouteConfig, RuleConfig};
pub use table::{Routing, Rule, SocketRoutes};
