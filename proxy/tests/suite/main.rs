//! The proxy over real sockets: one test a sentence. One binary, because each would link all of hyper and tonic again.

mod harness;

mod requests;
