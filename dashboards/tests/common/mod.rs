//! What the tests share: a synthetic service, the dashboard on a socket, a browser.

pub mod browser;
pub mod feed;
pub mod server;
