//! Kinds of requests, found by themselves: what a request is called, which kinds there are, and which of them are worth a class.
//!
//! Each request is named by what tells its cost ([`identity`]), and looked up in the table by the hash of that name. A few requests are
//! sampled with their names and latencies ([`sampling`]); a sketch of bounded size keeps those with the most work ([`candidates`]); of
//! these the controller, or a proxy that has none, makes classes ([`select`]). [`finder`] is the task that does this in a proxy.

pub mod candidates;
pub mod finder;
pub mod fold;
pub mod identity;
pub mod sampling;
pub mod select;

pub use crate::config::ClassKey;
