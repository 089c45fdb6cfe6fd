//! `trimtab demo`: simulated pods, an open-loop load, and the story that two worlds live through side by side. Tests and the
//! comparison benchmark use the pods and the load too.

pub mod arrivals;
pub mod clock;
pub mod faults;
pub mod load;
pub mod pod;
mod pod_metrics;
pub mod score;
pub mod script;
pub mod service_time;
