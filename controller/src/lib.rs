//! The controller: providers of configuration, scraping, the control tick, push to proxies, recording.

pub mod address;
pub mod duration;
pub mod gateway;
pub mod objects;
pub mod policy;
pub mod problem;
pub mod provider;
pub mod view;
