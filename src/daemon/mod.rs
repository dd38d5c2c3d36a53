//! The process around the pooler: its command line, pid file and descriptors, its start and its end, and
//! its notices to the service manager.
//!
//! Knows nothing of the protocol, and of clients and pools only that they exist: the main loop starts them, stops them
//! and passes commands on. Each file deals with one part of the operating system. Decisions are kept apart from system
//! calls, so that "another instance runs" and "the daemon died before it was ready" are unit tests.
//!
//! | file | what it is |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`start`] | start-up: signals, listening sockets, shared state |
//! | [`main_loop`] | the main loop: signals, commands, reload and shutdown, one at a time |
//! | `succession` | SIGUSR2 and UPGRADE: the main loop's part of an upgrade |
//! | [`status_file`] | the status of upgrades, where `pg_doorman upgrade` reads it |
//! | [`upgrade_command`] | `pg_doorman upgrade` |
//! | [`pid_keeper`] | `--keep-pid`: a parent process that outlives upgrades |
//! | [`daemonise`] | `-d`: a process becomes a daemon |
//! | [`pidfile`] | the pid file |
//! | [`instances`] | other processes of this program |
//! | [`binary_changed`] | whether the binary or a library was replaced on disk |
//! | [`descriptors`] | inherited descriptors, and the limit of open files |
//! | [`notify`] | `sd_notify` |
//! | [`start_check`] | what `-t` checks beside the configuration |
//!
//! The order at start matters and is the caller's to keep: [`openssl_memory`](crate::tls::openssl_memory) (before
//! OpenSSL has any memory), [`arguments`], [`descriptors::inherit`] (before anything is opened), [`daemonise`]
//! (before any thread exists), [`logging`](crate::log::logging), and when all listeners are bound the [`pidfile`],
//! [`notify`] and [`daemonise::Ready::tell`].

pub mod arguments;
pub mod binary_changed;
pub mod daemonise;
pub mod descriptors;
pub mod instances;
pub mod main_loop;
#[cfg(test)]
mod manual;
pub mod notify;
pub mod pid_keeper;
pub mod pidfile;
pub mod start;
pub mod start_check;
pub mod status_file;
mod succession;
pub mod upgrade_command;
