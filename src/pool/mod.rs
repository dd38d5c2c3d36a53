//! Who gets which server connection, and when.
//!
//! A pool belongs to one user of one database. It does not know the client protocol: it deals in
//! connections and in those who wait for one. No I/O happens under its lock.

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
