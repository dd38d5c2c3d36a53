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
//! | [`net`] | sockets, waits and wake-ups, buffers, descriptors passed to another process | [`net::wait`], [`net::poll_set`], [`net::stream`] |
//! | [`config`] | the TOML file, as typed and as meant; one definition for each setting | [`config::load`] |
//! | [`auth`] | SCRAM, MD5, verifiers, host-based rules, what `auth_query` has found | [`auth::challenge`], [`auth::hba`] |
//! | [`mod@log`] | which log records are written, in which form, and where | [`log::logging`] |
//! | [`server`] | one connection to PostgreSQL: log in, what is set and prepared on it, what was left on it, cancel | [`server::backend`], [`server::login`], [`server::dirty`] |
//! | [`pool`] | which client gets which server connection, and when; the limit of a database | [`pool::pool`] |
//! | [`relay`] | the session's value, and the protocol's state machine: no sockets, threads, clocks or locks | [`relay::session`], [`relay::requests`] |
//! | [`session`] | which thread drives a session, checkout and check-in, signals and CancelRequests, timeouts, closing, the state that all sessions share | `session::sets`, [`session::driver`], `session::attach`, [`session::shared`] |
//! | [`client`] | accepting, logging in, the threads for clients | `client::acceptor`, [`client::login`], [`client::client_threads`] |
//! | [`admin`] | the console | [`admin::commands`], [`admin::console`], [`admin::show`] |
//! | [`web`] | metrics over HTTP | [`web::http`], [`web::metrics`] |
//! | [`upgrade`] | the hand-over to a new process: its messages, both sides | [`upgrade::messages`], [`upgrade::predecessor`], [`upgrade::successor`] |
//! | [`daemon`] | arguments, signals, pid file, the main loop of the process | [`daemon::start`], [`daemon::main_loop`], `daemon::succession` |
//!
//! # A query's way
//!
//! The login:
//!
//! 1. `client::acceptor` keeps the connection until its first packet has come.
//! 2. [`client::client_threads`] gives it to a thread, which runs [`client::login`] and makes a [`session::client`].
//! 3. `session::sets` decides whether the session gets a thread of its own ([`client::client_thread`]) or joins a
//!    shared set (`session::shared_set`).
//!
//! Each request:
//!
//! 1. [`session::driver`] waits for the client's socket, and `session::traffic` reads.
//! 2. [`relay::requests`] notes which replies are due and wants a server connection.
//! 3. `session::attach` checks one out of [`pool::pool`], or waits for it in the pool's queue.
//! 4. [`relay::link_setup`] makes the client's settings on it, and `session::traffic` writes the request.
//! 5. [`relay::replies`] matches the replies with [`relay::expected`].
//! 6. When the transaction is over and nothing has to be cleaned, `session::attach` checks the connection in before the
//!    last reply is written. If the client left something behind, the reply is written first, and
//!    [`relay::link_setup`] cleans.
//!
//! # Where to look
//!
//! | question | place |
//! |---|---|
//! | Which thread drives a session? | `session::sets` has the rule |
//! | May a server connection go back now? | [`relay::conversation`]; `session::attach` gives it back |
//! | Which client gets the next server connection? | [`pool::pool`]; across users of a database [`pool::database_limit`] |
//! | When is an idle or old server connection closed? | `pool::maintenance` |
//! | How does a CancelRequest find its session? | [`session::registry`] by key, [`session::cancel`] sends it on |
//! | What bounds the memory of clients? | [`session::memory`] together, [`relay::statement_limits`] each |
//! | Where are timeouts? | `session::limits`; `query_wait_timeout` in `session::attach`; logins in [`client::login`] |
//! | Why was a client disconnected? | [`session::close_reason`]; at login `client::login_error` |
//! | What does SIGHUP, SIGUSR2 or SIGTERM do? | [`daemon::main_loop`]; after SIGUSR2 `daemon::succession`, [`upgrade::launch`] |
//! | What does a reload change? | [`session::shared::Shared::change_settings`], [`pool::pools`], `client::client_tls` |
//! | Who may log in? | [`auth::hba`], `client::known_user`, `client::authenticate` |
//! | What does a setting mean, and what is its default? | the files in `src/config/keys/` |
//! | What does a command of the console do? | [`admin::console`]; each SHOW in [`admin::show`] |
//!
//! # Where this differs from the plan
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
//! - A request is not sent before its first message is whole, up to 64 KiB. So half a message keeps no server
//!   connection from other sessions.
//! - The secrets that move with a session lie in memory that core dumps leave out ([`tls::nodump`]). OpenSSL wipes
//!   its own memory when it frees it ([`tls::openssl_memory`]), but core dumps contain what it has in use. To keep that
//!   out too would take an allocator of our own; passwords are in a core dump in any case, so it has to be forbidden.
//! - A login over TLS is done by one thread and its session driven by another (`client::idle_threads`). The memory that
//!   a handshake leaves in its thread is as much as all else that an idle client costs.
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
//! | checkout, check-in | a session gets a server connection, and gives it back: [`session::checkout`] is the value, `session::attach` what happens |
//! | detach | taking a session apart into its value and its sockets, to move it: [`session::suspend`] |
//! | server link | a server connection while a session has it: [`relay::server_link`] |
//! | conversation | where PostgreSQL stands in the protocol: between requests, in a batch, in a copy: [`relay::conversation`] |
//! | expected reply | an entry of the queue of replies that PostgreSQL owes: [`relay::expected`] |
//! | barrier | a request behind which nothing is sent before its reply has come: [`relay::in_flight`] |
//! | dirty state | what a client leaves behind on a server connection: [`server::dirty`] |
//! | cleaning | undoing the dirty state before the next client: [`relay::link_setup`] |
//! | statement that follows its client | a prepared statement that the pooler prepares again wherever it is needed: [`relay::statements`] |
//! | definition, number | text and parameter types of a statement; its number gives its name on servers: [`server::prepared`] |
//! | epoch (of definitions) | the count of definitions (DDL) that have passed through the pooler: [`session::statement_registry`] |
//! | epoch (of a pool) | RECONNECT and a changed server begin a new one; connections of an older one are closed: `pool::state` |
//! | found | not named by the configuration but found by `auth_query` or under `[pools."*"]`: a user in [`auth::found`], a pool in [`pool::found`] |
//! | parse settings | the settings that the meaning of a statement's text depends on: [`server::parse_settings`] |
//! | permit (of a database) | one of `max_db_connections`: [`pool::database_limit`] |
//! | permit (of a login) | one of the logins that may be under way: `client::login_permit` |
//! | client permit | one of `max_connections`: [`session::shared::ClientPermit`] |
//! | shared state | what all sessions share: [`session::shared::Shared`] |
//! | signal (to a session) | a flag that another thread sets for a session's thread: [`session::registry::signals`]; [`session::suspend`] acts on it |
//! | order | a command that both processes of a hand-over carry out: [`session::orders`] |
//! | hand-over | an upgrade's part in which sessions move: [`upgrade`] |
//! | predecessor, successor | the old and the new process of an upgrade: [`upgrade::predecessor`], [`upgrade::successor`] |
//! | shared set | sessions that one thread drives, and that thread: `session::sets` has the rule, `session::shared_set` the loop |
//! | turn | what a session does without waiting, once it is ready: [`session::driver`] |
//! | own thread | a thread that drives one session, one of `client_threads`: [`client::client_thread`] |
//! | busy | from a session's request to the reply's end: `session::sets` |
//! | thread ticket | a thread that was reserved for a client that is still to come: [`client::client_threads::ThreadTicket`] |
//! | requester | the console session that has asked for the upgrade: [`upgrade::predecessor::Requester`] |
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
pub mod web;
pub mod wire;

#[cfg(test)]
mod test_dir;
