//! pg_doorman, a PostgreSQL connection pooler with one thread for each client.
//!
//! # The one idea
//!
//! Everything that is true of a client's session is one plain value, [`session::session::Session`]; its
//! sockets are the only part that is not data. The protocol is a state machine without I/O
//! ([`session::relay`]) that takes bytes in and gives bytes out. A thread drives it: wait, read, step,
//! write ([`session::driver`]). So a session can go on in another process from any place where its thread
//! waits ([`upgrade`]), and every rule of the protocol can be tested with byte literals.
//!
//! # The rooms, from the ground up
//!
//! A room imports only from rooms above it in this list.
//!
//! | room | what it knows | where to begin |
//! |---|---|---|
//! | [`wire`] | PostgreSQL's protocol: where a message ends, what it says, how to write one | [`wire::frame`] |
//! | [`tls`] | the handshake by OpenSSL, the key schedule, the record layer | [`tls::channel`] |
//! | [`net`] | sockets, the one place a thread waits, buffers, descriptors passed to another process | [`net::wait`], [`net::stream`] |
//! | [`config`] | the TOML file, as typed and as meant; one definition for each setting | [`config::load`] |
//! | [`auth`] | SCRAM, MD5, verifiers, host-based rules | [`auth::challenge`] |
//! | [`server`] | one connection to PostgreSQL: log in, what is set and prepared on it, what was left on it, cancel | [`server::backend`], [`server::traces`] |
//! | [`pool`] | who gets which server connection and when | [`pool::pool`] |
//! | [`session`] | the session's value, the relay, the thread that drives it, the list of those that live | [`session::session`] |
//! | [`admin`] | the console | [`admin::desk`] |
//! | [`upgrade`] | the hand-over to a new process: its messages, both sides | [`upgrade::predecessor`] |
//! | [`daemon`] | arguments, log, signals, pid file, the life of the process | [`daemon::life`] |
//!
//! # A query's way
//!
//! [`session::accept`] gives the socket to a thread; [`session::login`] finds out who it is and makes a
//! [`session::guest`]; [`session::driver`] waits and reads; [`session::relay::requests`] notes which replies
//! are due and wants a server connection; [`session::lend`] gets one from [`pool::pool`];
//! [`session::relay::lending`] makes it have the client's settings; [`session::relay::replies`] matches the
//! replies and, when the transaction is over, [`session::relay::lending`] undoes what the client left, and
//! the driver gives the connection back before it writes the last reply.
//!
//! # Where this differs from the plan of the house
//!
//! - A thread that waits for a server connection sleeps by `park`, not on a condition variable: half the
//!   work for each hand-off, and a wake-up that comes too early is kept.
//! - Connections are made by threads of their own, never by a client's: so a client waits in one place,
//!   where it can be cancelled, moved or hung up on, and the queue's order holds whatever comes first, a
//!   connection that is returned or one that is new.
//! - A thread is woken by a signal that `ppoll` lets through, not by an eventfd; [`net::wait`] says why.
//! - A session does not always wait with `ppoll`: a peer that is about to speak is waited for by the call that
//!   reads, which saves two of six system calls of a short transaction; `session::pace` says when.
//! - Client threads are under SCHED_BATCH only when there are more of them than processors: with fewer, and
//!   other work on the machine, it makes their clients wait ([`net::thread`]).
//! - A request is not sent before its first message is whole, up to 64 KiB: half a message holds nothing
//!   but its own thread.
//! - Keys are kept out of core dumps in two places: those that move with a session in pages of
//!   [`tls::undumped`], and what OpenSSL makes of them by an allocator for all of its memory
//!   ([`daemon::openssl_memory`]).
//! - A silent session is not only in its thread: it lies where the hand-over can lift it out without waking that
//!   thread (`session::bed`), and in the new process it has no thread until it speaks or a few seconds have
//!   passed ([`session::lobby`]). Waking and starting thousands of threads on a busy machine took most of an upgrade.
//! - Where more of them speak at once than there are threads, a thread keeps the server connection that one client
//!   has done with for the next ([`session::lend`]), if nobody in the pool's queue came before: to hand it from
//!   thread to thread took a third of the processor time.
//! - A login over TLS is done by one thread and its session driven by another (`session::parking`): what a
//!   handshake leaves in its thread is as much as all else that an idle client costs.
//! - There is no room for `/metrics` yet.

#![deny(missing_docs)]

// By this name the script of tests/fuzz finds the crate from within its own tests too.
#[cfg(test)]
extern crate self as pg_doorman;

pub mod admin;
pub mod auth;
pub mod config;
pub mod daemon;
pub mod net;
pub mod pool;
pub mod server;
pub mod session;
pub mod tls;
pub mod upgrade;
pub mod wire;
