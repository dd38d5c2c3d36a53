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
//! | [`encryption`] | TLS to PostgreSQL |
//! | [`messages`] | whole messages in turns, as in a login |
//! | [`cancel`] | sending a CancelRequest |
//! | [`seats`] | the limit of connections to one database |
//! | [`parameters`] | settings by name |
//! | [`prepared`] | prepared statements as values, and which of them one connection has |
//! | [`shape`] | the columns of a statement's rows |
//! | `lexer` | a text in SQL, parted into words |
//! | [`constants`] | constants whose value depends on when a text is analysed |
//! | [`reading`] | the settings that the meaning of a text depends on |
//! | [`set_commands`] | which settings a text changes |
//! | [`script`] | DEALLOCATE in SQL |
//! | [`traces`] | what a client leaves on a connection, and the statement that undoes it |
//! | [`restore`] | a client's startup settings, made again behind a RESET |

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
