//! Pools: which client gets which server connection, and when.
//!
//! A pool belongs to one user of one database. It does not know the client protocol: it deals in
//! connections and in the threads that wait for one. No I/O happens under its lock.
//!
//! | file | what it is |
//! |---|---|
//! | [`pools`] | all pools, by database and user |
//! | [`plans`] | from the settings to the plan of each pool |
//! | [`plan`] | how one pool is run; replaced as a whole at a reload |
//! | [`pool`] | one pool: its connections, and the queue for them |
//! | `state` | what is behind a pool's lock |
//! | [`waiter`] | a thread that waits for a connection |
//! | [`connector`] | the thread that makes one connection |
//! | `failures` | failures to connect in a row: when to try again, what to log |
//! | `upkeep` | connections made and taken in, expired ones closed, a new plan put in force |
//! | [`janitor`] | the thread that does the upkeep from time to time |
//! | `usher` | which pool gets a connection at the limit of `max_db_connections` |
//! | [`statements`] | the registry of prepared statements, shared by all pools |
//! | [`effects`] | what startup settings come to on a pool's servers |
//! | [`check`] | the kept answer to `pooler_check_query` |
//! | [`totals`] | counters |
//! | `moving` | a pool between two processes |

pub mod check;
pub mod connector;
pub mod effects;
mod failures;
pub mod janitor;
mod moving;
pub mod plan;
pub mod plans;
#[allow(clippy::module_inception, reason = "the file is the party: one pool")]
pub mod pool;
pub mod pools;
mod state;
pub mod statements;
pub mod totals;
mod upkeep;
mod usher;
pub mod waiter;

#[cfg(test)]
pub(crate) mod tests;
