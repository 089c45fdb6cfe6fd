//! The data plane: sockets, HTTP and the pick rule. It knows no Kubernetes and no learning.

pub mod api;
pub mod config;

pub mod admission;
pub mod average;
pub mod backend;
pub mod gauge;
pub mod load;
pub mod outlier;
pub mod pick;
pub mod report;
pub mod sketch;
pub mod time;
