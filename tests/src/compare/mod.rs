//! The comparison benchmark: Trimtab against real nginx, HAProxy and Envoy, each in front of the same simulated pods under
//! the same load. Pods, load and proxy are separate processes; rivals take turns, so that all see the same machine.

pub mod overhead;
pub mod pods;
pub mod predict;
pub mod process;
pub mod report;
pub mod rival;
pub mod shape;
pub mod statistics;
pub mod trial;
pub mod twin;
