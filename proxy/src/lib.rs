//! The data plane: sockets, HTTP and the pick rule. It knows no Kubernetes and no learning.

pub mod api;
