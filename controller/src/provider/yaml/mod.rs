//! YAML (and with it JSON) to typed objects, with the line of everything: what is wrong is reported with file, line and field, and all
//! of it at once.

pub mod document;
pub mod kinds;

pub mod node;
pub mod schema;
#[cfg(test)]
mod tests;
