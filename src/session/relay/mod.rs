//! The protocol as a state machine without I/O: bytes in, bytes out.
//!
//! | file | what it is |
//! |---|---|
//! | [`expected`] | the queue of replies a client still expects |
//! | [`unsettled`] | what is known only when a batch under way has been answered |
//! | [`pieces`] | what a step wants written, without copying what is only passed on |
//! | [`conversation`] | where the conversation with the server stands, and what follows from that |
//! | [`copying`] | COPY FROM STDIN |
//! | [`requests`] | a step over what the client sent |
//! | [`running`] | Query, FunctionCall and Execute |
//! | [`begin`] | a BEGIN that PostgreSQL hears of with the request behind it |
//! | [`names`] | the names in messages |
//! | [`parsing`] | Parse: a client prepares a statement |
//! | [`statements`] | prepared statements that follow their client: Bind, Describe, Close |
//! | [`statement_limits`] | how much may be prepared |
//! | [`deallocate`] | DEALLOCATE in SQL of statements that follow |
//! | [`client_end`] | the end of a client's requests |
//! | [`delays`] | who keeps a session from going on |
//! | [`check`] | a query that is answered with PostgreSQL's last answer to it |
//! | [`reading`] | the settings that the texts of statements are read under |
//! | [`shapes`] | what clients have been told of their statements' rows |
//! | [`stale`] | statements that have to be parsed anew |
//! | [`replies`] | a step over what the server sent |
//! | [`errors`] | what an error takes back, and in whose words it is told |
//! | [`defaults`] | settings that the client has not chosen |
//! | [`going_back`] | a client's startup settings, once more behind its RESET |
//! | [`lending`] | a server connection comes to the session and leaves it |
//!
//! All of them are methods of [`Session`](super::session::Session), which is all the state there is.

pub mod begin;
pub mod check;
pub mod client_end;
pub mod conversation;
pub mod copying;
pub mod deallocate;
pub mod defaults;
pub mod delays;
pub mod errors;
pub mod expected;
pub mod going_back;
pub mod lending;
pub mod names;
pub mod parsing;
pub mod pieces;
pub mod reading;
pub mod replies;
pub mod requests;
pub mod running;
pub mod shapes;
pub mod stale;
pub mod statement_limits;
pub mod statements;
pub mod unsettled;

#[cfg(test)]
mod tests;
