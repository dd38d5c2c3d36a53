//! pg_doorman.
pub mod auth;
pub mod config;
pub mod daemon;
pub mod wire;
