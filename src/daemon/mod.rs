//! The process around the pooler: its command line, log, pid file and descriptors, its start and its end, and
//! what it tells the service manager.
//!
//! Knows nothing of the protocol and of pools. Each file talks to one part of the operating system, and the part
//! that decides is kept apart from the part that asks, so that "another instance runs", "nobody reads the log"
//! and "the daemon died before it was ready" are unit tests.
//!
//! | file | what it is |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`opening`] | start-up: signals, listening sockets, shared state |
//! | [`life`] | the main loop: signals and commands, one at a time |
//! | `succession` | the main loop's part of an upgrade |
//! | [`ledger`] | the status of upgrades, where `pg_doorman upgrade` reads it |
//! | [`upgrade_command`] | `pg_doorman upgrade` |
//! | [`keeper`] | `--keep-pid`: a parent process that outlives upgrades |
//! | [`daemonise`] | `-d`: a process becomes a daemon |
//! | [`pidfile`] | the pid file |
//! | [`instances`] | other processes of this program |
//! | [`replaced`] | whether the binary or a library was replaced on disk |
//! | [`descriptors`] | inherited descriptors, and the limit of open files |
//! | [`notify`] | `sd_notify` |
//! | [`start_check`] | what `-t` checks beside the configuration |
//! | [`logging`] | where log records go |
//! | [`log_file`] | the log file, and where a daemon logs by default |
//! | `log_filter` | which records are written |
//! | `log_format` | what a record looks like |
//! | `stderr` | writing to standard error without waiting long |
//! | `syslog` | writing to syslog |
//! | `scratch` | directories and processes for tests |
//!
//! The order at start matters and is the caller's to keep: [`openssl_memory`](crate::tls::openssl_memory) (before
//! OpenSSL has any memory), [`arguments`], [`descriptors::inherit`] (before anything is opened), [`daemonise`]
//! (before any thread exists), [`logging`], and when all listeners are bound the [`pidfile`], [`notify`] and
//! [`daemonise::Ready::tell`].

pub mod arguments;
pub mod daemonise;
pub mod descriptors;
pub mod instances;
pub mod keeper;
pub mod ledger;
pub mod life;
pub mod log_file;
mod log_filter;
mod log_format;
pub mod logging;
pub mod notify;
pub mod opening;
pub mod pidfile;
pub mod replaced;
pub mod start_check;
mod stderr;
mod succession;
mod syslog;
pub mod upgrade_command;

#[cfg(test)]
mod scratch;
