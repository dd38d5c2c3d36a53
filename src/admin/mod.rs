//! The console: the commands of `psql -d pgdoorman` and their answers.
//!
//! Reads the registries and prints them. Does not know how sessions are relayed.
//!
//! | file | what it is |
//! |---|---|
//! | [`commands`] | parsing a command |
//! | [`console`] | carries commands out |
//! | [`show`] | one table for each SHOW |
//! | `show_hba` | SHOW HBA |
//! | [`table`] | a table as messages of the protocol |

pub mod commands;
pub mod console;
pub mod show;
mod show_hba;
pub mod table;
