//! The log: which records are written, in which form, and where.
//!
//! Does not know what is logged. Invariant: a record that cannot be written at once is counted and dropped; no thread
//! waits long for the reader of the log.
//!
//! | file | what it is |
//! |---|---|
//! | [`logging`] | where records go |
//! | [`mod@file`] | the log file, and where a daemon logs by default |
//! | [`run_directory`] | `/run/pg_doorman` |
//! | [`filter`] | which records are written |
//! | [`mod@format`] | what a record looks like |
//! | `stderr` | writing to standard error without waiting long |
//! | `syslog` | writing to syslog |

pub mod file;
pub mod filter;
pub mod format;
pub mod logging;
pub mod run_directory;
mod stderr;
mod syslog;
