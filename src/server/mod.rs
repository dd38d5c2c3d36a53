//! One connection to PostgreSQL: how it is made, what is set and prepared on it, how it is cleaned and
//! canceled.
//!
//! Knows neither which client uses the connection nor how many connections there are.
//!
//! | file | what it is |
//! |---|---|
//! | [`backend`] | a server connection as a value: all of it except its socket |
//! | [`target`] | where connections of a pool lead, and as which user |
//! | [`login`] | connecting and logging in |
//! | [`server_tls`] | TLS to PostgreSQL |
//! | [`ask`] | a query of the pooler's own, with a parameter (`auth_query`) |
//! | [`messages`] | reading whole messages, as in a login |
//! | [`cancel`] | sending a CancelRequest |
//! | [`parameters`] | settings by name |
//! | [`prepared`] | prepared statements as values, and which of them one connection has |
//! | [`row_shape`] | the columns of a statement's rows |
//! | `lexer` | a text in SQL, parted into words |
//! | [`constants`] | constants whose value depends on when a text is analysed |
//! | [`parse_settings`] | the settings that the meaning of a text depends on |
//! | [`set_commands`] | which settings a text changes |
//! | [`sql_deallocate`] | DEALLOCATE in SQL |
//! | [`dirty`] | what a client leaves on a connection, and the statement that undoes it |
//! | [`restore`] | a client's startup settings, made again behind a RESET |

pub mod ask;
pub mod backend;
pub mod cancel;
pub mod constants;
pub mod dirty;
mod lexer;
pub mod login;
pub mod messages;
pub mod parameters;
pub mod parse_settings;
pub mod prepared;
pub mod restore;
pub mod row_shape;
pub mod server_tls;
pub mod set_commands;
pub mod sql_deallocate;
pub mod target;
