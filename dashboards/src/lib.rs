//! The web dashboard and its API: one page, one snapshot, ten minutes of history and one stream of events, all made from the
//! controller's read-only [`View`](trimtab_controller::view::View). Everything the page needs is embedded in the binary.

mod assets;
mod error;
mod feed;
mod frame;
mod guard;
mod history;
mod hosts;
mod number;
mod query;
mod reasons;
mod router;
mod security;
mod stream;

pub use hosts::Hosts;
pub use router::{router, router_for};
