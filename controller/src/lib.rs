//! The controller: providers of configuration, scraping, the control tick, push to proxies, recording.

pub mod view;
