//! The web dashboard and its API.
