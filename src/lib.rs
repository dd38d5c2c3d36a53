//! pg_doorman.
pub mod admin;
pub mod auth;
pub mod config;
pub mod daemon;
pub mod net;
pub mod pool;
pub mod server;
pub mod session;
pub mod upgrade;
pub mod wire;
