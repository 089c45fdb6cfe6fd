//! What abuse, idling and long use do to the proxy: memory per idle connection, the latency of everybody else meanwhile, and what is left
//! behind after a long time. Measurements to be run by hand (`just abuse`, `just soak`); what must hold is asserted by tests.

pub mod attack;
pub mod idle;
pub mod load;
pub mod soak;
pub mod target;
