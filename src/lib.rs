//! pg_doorman, a PostgreSQL connection pooler: a thread for each client while that is fastest, shared ones beyond.
//!
//! # The one idea
//!
//! Everything that is true of a client's session is one plain value, [`relay::session::Session`]; its sockets are the
//! only part that is not data. The protocol is a state machine without I/O ([`relay`]) that takes bytes in and gives
//! bytes out. A thread drives it: wait, read, step, write ([`session::driver`]). So a session can go on in another
//! process from any place where its thread waits ([`upgrade`]), and every rule of the protocol can be tested with byte
//! literals.
//!
//! # The rooms, from the ground up
//!
//! A room imports only from rooms above it in this list (`tests/rooms.rs` checks it).
//!
//! | room | what it knows | where to begin |
//! |---|---|---|
//! | [`wire`] | PostgreSQL's protocol: where a message ends, what it says, how to write one | [`wire::frame`] |
//! | [`tls`] | the handshake by OpenSSL, the key schedule, the record layer | [`tls::channel`] |
//! | [`net`] | sockets, the one place a thread waits, buffers, descriptors passed to another process | [`net::wait`], [`net::stream`] |
//! | [`config`] | the TOML file, as typed and as meant; one definition for each setting | [`config::load`] |
//! | [`auth`] | SCRAM, MD5, verifiers, host-based rules | [`auth::challenge`] |
//! | [`mod@log`] | which log records are written, in which form, and where | [`log::logging`] |
//! | [`server`] | one connection to PostgreSQL: log in, what is set and prepared on it, what was left on it, cancel | [`server::backend`], [`server::dirty`] |
//! | [`pool`] | which client gets which server connection, and when; the limit of a database | [`pool::pool`] |
//! | [`relay`] | the session's value, and the protocol's state machine: no sockets, threads, clocks or locks | [`relay::session`], [`relay::requests`] |
//! | [`session`] | what drives sessions, checkout and check-in, closing, the state that all sessions share | [`session::driver`], [`session::shared`] |
//! | [`client`] | accepting, logging in, the threads for clients | [`client::client_threads`], [`client::login`] |
//! | [`admin`] | the console | [`admin::console`] |
//! | [`upgrade`] | the hand-over to a new process: its messages, both sides | [`upgrade::predecessor`] |
//! | [`daemon`] | arguments, signals, pid file, the main loop of the process | [`daemon::main_loop`] |
//!
//! # A query's way
//!
//! `client::acceptor` keeps the connection until its first packet has come; [`client::client_threads`] gives it to a
//! thread; [`client::login`] logs the client in and makes a [`session::client`]; [`session::driver`] waits and reads;
//! [`relay::requests`] notes which replies are due and wants a server connection; [`session::checkout`] gets one from
//! [`pool::pool`]; [`relay::link_setup`] makes it have the client's settings; [`relay::replies`] matches the replies
//! and, when the transaction is over, [`relay::link_setup`] undoes what the client left, and the driver gives the
//! connection back before it writes the last reply.
//!
//! # Where this differs from the first design
//!
//! - Connections to PostgreSQL are made by threads of their own, never by a client's. So a client waits in one
//!   place, where its request can be canceled or its session moved, and the queue's order holds for returned and
//!   new connections alike.
//! - A thread is woken by a signal that its wait lets through, not by an eventfd; [`net::wait`] says why.
//! - A session does not always wait with `ppoll`. A peer that answers at once is waited for by the call that
//!   reads, which saves two of six system calls of a short transaction; `session::brief_read` says when.
//! - A connection has no thread before its first packet has come (`client::acceptor`).
//! - Client threads are under SCHED_BATCH only when there are more of them than processors. With fewer, and
//!   other work on the machine, it makes their clients wait ([`net::thread`]).
//! - A request is not sent before its first message is whole, up to 64 KiB. Half a message holds nothing
//!   but its own session.
//! - The secrets that move with a session lie in memory that core dumps leave out ([`tls::nodump`]). OpenSSL wipes
//!   its own memory when it frees it ([`tls::openssl_memory`]), but core dumps contain what it has in use. To keep that
//!   out too would take an allocator of our own; passwords are in a core dump in any case, so it has to be forbidden.
//! - A login over TLS is done by one thread and its session driven by another (`client::idle_threads`). What a
//!   handshake leaves in its thread is as much memory as all else that an idle client costs.
//! - There is no room for `/metrics` yet.
//!
//! # Glossary
//!
//! The words of the PostgreSQL manual mean here what they mean there. These are the pooler's own.
//!
//! | term | meaning |
//! |---|---|
//! | client | a program that has logged in to the pooler, and its connection: [`session::client`] |
//! | session | all that is true of a client except its sockets: [`relay::session`] |
//! | server connection | a connection of the pooler to PostgreSQL: [`server::backend`] |
//! | pool | the server connections of one user of one database, and their queue: [`pool::pool`] |
//! | pool configuration | the settings of one pool, worked out: [`pool::pool_config`] |
//! | checkout, check-in | a session gets a server connection, and gives it back: [`session::checkout`] |
//! | server link | a server connection while a session has it: [`relay::server_link`] |
//! | conversation | where PostgreSQL stands in the protocol: between requests, in a batch, in a copy: [`relay::conversation`] |
//! | expected reply | an entry of the queue of replies that PostgreSQL owes: [`relay::expected`] |
//! | barrier | a request behind which nothing is sent before its reply has come: [`relay::in_flight`] |
//! | dirty state | what a client leaves behind on a server connection: [`server::dirty`] |
//! | cleaning | undoing the dirty state before the next client: [`relay::link_setup`] |
//! | statement that follows its client | a prepared statement that the pooler prepares again wherever it is needed: [`relay::statements`] |
//! | definition, number | text and parameter types of a statement; its number gives its name on servers: [`server::prepared`] |
//! | epoch | the count of definitions (DDL) that have passed through the pooler: [`session::statement_registry`] |
//! | parse settings | the settings that the meaning of a statement's text depends on: [`server::parse_settings`] |
//! | permit (of a database) | one of `max_db_connections`: [`pool::database_limit`] |
//! | permit (of a login) | one of the logins that may be under way: `client::login_permit` |
//! | client permit | one of `max_connections`: [`session::shared::ClientPermit`] |
//! | shared state | what all sessions share: [`session::shared::Shared`] |
//! | signal (to a session) | a flag that another thread sets for a session's thread: [`session::registry::signals`] |
//! | hand-over | an upgrade's part in which sessions move: [`upgrade`] |
//! | predecessor, successor | the old and the new process of an upgrade: [`upgrade::predecessor`], [`upgrade::successor`] |
//! | shared set | sessions that one thread drives, and that thread: `session::sets` has the rule, `session::shared_set` the loop |
//! | turn | what a session does without waiting, once it is ready: [`session::driver`] |
//! | busy | from a session's request to the reply's end: `session::sets` |
//! | status file | a file in memory that `pg_doorman upgrade` reads: [`daemon::status_file`] |
//! | main loop | signals and commands of the process, one at a time: [`daemon::main_loop`] |

#![deny(missing_docs)]

// By this name the script of tests/fuzz finds the crate from within its own tests too.
#[cfg(test)]
extern crate self as pg_doorman;

pub mod admin;
pub mod auth;
pub mod client;
pub mod config;
pub mod daemon;
pub mod log;
pub mod net;
pub mod pool;
pub mod relay;
pub mod server;
pub mod session;
pub mod tls;
pub mod upgrade;
pub mod wire;

#[cfg(test)]
mod test_dir;
