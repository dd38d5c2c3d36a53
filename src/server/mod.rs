//! One connection to PostgreSQL: how it is made, what is set and prepared on it, how it is cleaned and
//! cancelled.
//!
//! Knows neither who uses the connection nor how many there are.

pub mod backend;
pub mod cancel;
pub mod constants;
pub mod encryption;
mod lexer;
pub mod login;
pub mod messages;
pub mod parameters;
pub mod prepared;
pub mod reading;
pub mod restore;
pub mod script;
pub mod seats;
pub mod set_commands;
pub mod shape;
pub mod target;
pub mod traces;
