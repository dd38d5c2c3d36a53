//! The process around the pooler: its command line, log, pid file, descriptors, its life as a
//! daemon and what it tells the service manager.
//!
//! Nothing here knows of clients, pools or PostgreSQL. Each file talks to one part of the
//! operating system, and the part that decides is kept apart from the part that asks, so that
//! "another instance runs", "nobody reads the log" and "the daemon died before it was ready" are
//! unit tests.
//!
//! The order at start matters and is the caller's to keep: [`openssl_memory`] (before OpenSSL
//! has any), [`arguments`], then [`descriptors::inherit`] (before anything is opened), then [`daemonise`] (before any thread
//! exists), then [`logging`], and when all listeners are bound the [`pidfile`], [`notify`] and
//! [`daemonise::Ready::tell`].

pub mod arguments;
pub mod daemonise;
pub mod descriptors;
pub mod instances;
pub mod keeper;
pub mod ledger;
pub mod life;
mod log_filter;
mod log_format;
pub mod logging;
pub mod notify;
pub mod opening;
pub mod openssl_memory;
pub mod pidfile;
pub mod replaced;
mod stderr;
mod succession;
mod syslog;
pub mod upgrade_command;

#[cfg(test)]
mod scratch;
