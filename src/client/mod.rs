//! A client's way into the pooler: from the accepted connection to a session, and the threads that serve clients.
//!
//! Knows neither the hand-over nor the console's commands. Invariant: a connection has a thread only from its first
//! packet on, and counts among `max_connections` only when its client has proved who it is.
//!
//! | file | what it is |
//! |---|---|
//! | [`client_threads`] | the threads for clients, how many there are, and what logins share |
//! | `client_threads/cancels.rs` | CancelRequests, each in a thread |
//! | `client_threads/reserve.rs` | the threads in reserve |
//! | [`client_thread`] | what a thread does for one client: log it in, drive its session |
//! | `acceptor` | the thread that accepts connections and keeps them until their first packet has come |
//! | `acceptor/starting.rs` | connections with a whole first packet, in the order in which they get threads |
//! | `acceptor/refusing.rs` | the last message on connections that get no thread |
//! | [`new_connection`] | a connection before its first packet |
//! | `crowd` | connections that have not logged in, counted by address |
//! | `login_permit` | the limit of logins under way |
//! | `turns` | the order in which TLS handshakes begin |
//! | `client_tls` | certificates and keys for TLS with clients; replaced at a reload |
//! | `startup` | the TLS handshake and the first packet, in the connection's thread |
//! | [`login`] | from the first packet to a session; `client_login_timeout`, `max_connections` |
//! | `known_user` | what a login knows of its user, and the pool it leads to |
//! | `authenticate` | the messages of MD5 and SCRAM |
//! | `clear_text` | passwords and tokens in clear text |
//! | `client_settings` | what PostgreSQL makes of the settings in a startup packet |
//! | `console_login` | a login to the console |
//! | `login_error` | why a login fails, as an error and as a log line |
//! | `rejections` | a bound on the log lines about rejected connections |
//! | `idle_threads` | threads without work |

mod acceptor;
mod authenticate;
mod clear_text;
mod client_settings;
pub mod client_thread;
pub mod client_threads;
mod client_tls;
mod console_login;
mod crowd;
mod idle_threads;
mod known_user;
pub mod login;
mod login_error;
mod login_permit;
pub mod new_connection;
mod rejections;
mod startup;
mod turns;
