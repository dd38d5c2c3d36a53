//! pg_doorman.
pub mod auth;
pub mod net;
pub mod pool;
pub mod server;
pub mod wire;
