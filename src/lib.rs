//! The command line's own library: what `demo` and the tests share.

pub mod demo;
pub mod encrypted;
pub mod open_files;
pub mod up;
