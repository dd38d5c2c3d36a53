//! The console: what an operator reads and says through `psql -d pgdoorman`.
//!
//! Reads the registries and prints them; knows nothing of how sessions are relayed.

pub mod commands;
pub mod desk;
pub mod show;
pub mod table;
