//! The session's value, and the protocol as a state machine without I/O: bytes in, bytes out.
//!
//! A rule of this room: no sockets, no threads, no clocks, no locks. The time is a field that the driver sets.
//!
//! | file | what it is |
//! |---|---|
//! | [`session`] | the value: everything that is true of a client's session except its sockets |
//! | [`server_link`] | the value's part about its server connection, while it has one |
//! | [`shared_statements`] | what a session asks of the statements that all sessions share |
//! | [`expected`] | the queue of replies a client still expects |
//! | [`in_flight`] | what must wait until a batch under way has been answered |
//! | [`output`] | what a step wants written, without copying what is only passed on |
//! | [`conversation`] | where the conversation with the server stands, and what follows from that |
//! | [`copying`] | COPY FROM STDIN |
//! | [`requests`] | a step over what the client sent |
//! | [`running`] | Query, FunctionCall and Execute |
//! | [`begin`] | a BEGIN that is sent only with the request behind it |
//! | [`held_statements`] | the statements of a client by name, and their bytes |
//! | [`names`] | the names in messages |
//! | [`parsing`] | Parse: a client prepares a statement |
//! | [`statements`] | prepared statements that follow their client: Bind, Describe, Close |
//! | [`statement_limits`] | how much may be prepared |
//! | [`deallocate`] | DEALLOCATE in SQL of statements that follow |
//! | [`client_end`] | the end of a client's requests |
//! | [`delays`] | which peer keeps a session from going on |
//! | [`check_query`] | a query that is answered with PostgreSQL's last answer to it |
//! | [`parse_settings`] | the settings that a statement's text is parsed under |
//! | [`row_description`] | the columns of statements' rows, as clients know them |
//! | [`stale_plan`] | "cached plan must not change result type": statements parsed anew |
//! | [`replies`] | a step over what the server sent |
//! | [`errors`] | what an error takes back, and the error that the client gets |
//! | [`defaults`] | settings that the client has not set |
//! | [`going_back`] | a client's startup settings, once more behind its RESET |
//! | [`link_setup`] | making the client's settings on a server connection, and cleaning it |
//!
//! Except for the values named above, all are methods of [`Session`](crate::relay::session::Session), which is all the
//! state there is.

pub mod begin;
pub mod check_query;
pub mod client_end;
pub mod conversation;
pub mod copying;
pub mod deallocate;
pub mod defaults;
pub mod delays;
pub mod errors;
pub mod expected;
pub mod going_back;
pub mod held_statements;
pub mod in_flight;
pub mod link_setup;
pub mod names;
pub mod output;
pub mod parse_settings;
pub mod parsing;
pub mod replies;
pub mod requests;
pub mod row_description;
pub mod running;
pub mod server_link;
pub mod session;
pub mod shared_statements;
pub mod stale_plan;
pub mod statement_limits;
pub mod statements;

#[cfg(test)]
mod tests;
