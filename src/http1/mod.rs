//! HTTP/1.1 towards clients: heads, bodies, answers.
//!
//! Our own rather than hyper's server, since the contract asks for what that hides: a request with both lengths must
//! be refused (hyper drops one of them silently), malformed requests get a JSON answer, an aborted answer must still
//! deliver its last event, and the log speaks when the last byte is gone. `httparse` does the parsing.

pub mod chunked;
mod connection;
mod exchange;
mod head;

pub use connection::{Connection, Interruption};
pub use exchange::{Answer, Exchange, Failure, Framing, Next};
pub use head::{Head, Method};
