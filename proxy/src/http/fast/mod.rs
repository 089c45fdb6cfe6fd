//! The fast path: plain HTTP/1.1 from a client to an endpoint without hyper. A head is parsed once, in the buffer that it was read into, and
//! written anew into one reused buffer; bodies are relayed by their framing; a request and its answer take four system calls.
//!
//! It takes only what can be read in one way: HTTP/1.1, a target in origin form, exactly one plain `Host`, no `Upgrade`, `Expect`, `TE` or
//! `Trailer`, a body by `Content-Length` or bare `chunked` ([`request`]). Anything else goes to hyper's path before a byte of it is consumed,
//! with all that was read, and what is ambiguous is refused there: there is one place that refuses. Heads and chunks are written from parsed
//! values; nothing is passed through as it came. Which endpoint, whether again, how long, and the account are hyper's path's own:
//! [`arrive`](super::arrive), [`attempts`](super::attempts), [`account`](super::account).

mod answer;
mod chunked;
mod date;
mod endpoint;
mod exchange;
mod field;
mod flow;
pub mod head;
mod request;
mod response;
mod scratch;
mod session;
pub mod stream;
#[cfg(any(test, fuzzing))]
pub(crate) mod twin;

pub use endpoint::Endpoint;
pub use scratch::Scratch;
pub use session::{Ended, Lost, Session};
