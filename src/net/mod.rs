//! Sockets, and the calls in which threads wait for them.
//!
//! Knows nothing of PostgreSQL's messages. All sockets are used with `MSG_DONTWAIT`, so a thread blocks on peers
//! in three calls only: [`wait::wait`] for one session (by way of [`stream::wait`]), [`poll_set`] for many sockets, and
//! `Stream::receive_soon` for two milliseconds.
//!
//! | file | what it is |
//! |---|---|
//! | [`wait`] | waiting for one or two sockets, and how another thread wakes the waiting one |
//! | [`poll_set`] | many sockets that one thread waits for |
//! | [`waker`] | how to wake a thread, or a member of a set of sessions |
//! | [`stream`] | a connected socket, with or without TLS |
//! | [`encrypted`] | the TLS of a connection, beside its socket |
//! | [`exchange`] | send and receive in turns within a deadline, as a login does |
//! | [`buffer`] | I/O buffers, taken while they are needed |
//! | [`address`] | the address of a peer |
//! | [`host_names`] | names of hosts, and the addresses of this machine |
//! | [`clock`] | time that two processes agree on |
//! | `acknowledged` | whether the other side's host still acknowledges data |
//! | [`listener`] | a listening TCP socket |
//! | [`unix_listener`] | a listening Unix socket, and its file |
//! | `port_holders` | whether a process listens on a port |
//! | [`fd_channel`] | frames with descriptors, over a Unix socket, between the processes of a hand-over |
//! | `inbox` | frames received on an [`fd_channel`] |
//! | `outbox` | frames to be sent on an [`fd_channel`] |
//! | [`processors`] | what the machine's processors have done |
//! | [`process`] | another process, by its descriptor |
//! | [`thread`] | name, scheduling and number of a thread |
//! | [`limits`] | how many threads this process may have |

mod acknowledged;
pub mod address;
pub mod buffer;
pub mod clock;
pub mod encrypted;
pub mod exchange;
pub mod fd_channel;
pub mod host_names;
mod inbox;
pub mod limits;
pub mod listener;
mod outbox;
pub mod poll_set;
mod port_holders;
pub mod process;
pub mod processors;
pub mod stream;
pub mod thread;
pub mod unix_listener;
pub mod wait;
pub mod waker;

#[cfg(test)]
mod tests;
