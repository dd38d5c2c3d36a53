//! Pools: which client gets which server connection, and when.
//!
//! A pool belongs to one user of one database. It does not know the client protocol: it deals in
//! connections and in waiters for one. No I/O happens under its lock.
//!
//! | file | what it is |
//! |---|---|
//! | [`pools`] | all pools, by database and user |
//! | [`pool_configs`] | from the settings to the configuration of each pool |
//! | [`pool_config`] | how one pool is run; replaced as a whole at a reload |
//! | [`found`] | pools that the configuration does not name |
//! | [`pool`] | one pool: its connections, and the queue for them |
//! | `state` | what is behind a pool's lock |
//! | [`waiter`] | a place in the queue, and the slot in which a connection is handed over |
//! | [`connector`] | the thread that makes one connection |
//! | `failures` | failures to connect in a row: when to try again, what to log |
//! | `maintenance` | `idle_timeout`, `server_lifetime`, `min_pool_size`; a new configuration put in force; RECONNECT |
//! | [`janitor`] | the thread that calls the maintenance and grants permits |
//! | [`database_limit`] | permits for the connections to one database (`max_db_connections`), and which pool gets one |
//! | [`startup_cache`] | what PostgreSQL makes of clients' startup settings |
//! | [`check_query`] | the kept answer to `pooler_check_query` |
//! | [`totals`] | counters |
//! | `handover` | a pool between two processes |

pub mod check_query;
pub mod connector;
mod failures;
pub mod found;
mod handover;
pub mod janitor;
mod maintenance;
#[allow(clippy::module_inception, reason = "the file is the party: one pool")]
pub mod pool;
pub mod pool_config;
pub mod pool_configs;
pub mod pools;
pub mod startup_cache;
mod state;
pub mod totals;
pub mod waiter;

pub mod database_limit;
#[cfg(test)]
pub(crate) mod tests;
