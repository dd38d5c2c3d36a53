//! A client's session: the value, the protocol it follows, the thread that drives it, and the list of all
//! sessions.
//!
//! A session can go on in another process: a thread stops driving where it waits, and hands the client in as a
//! [`guest`]. How it gets there is the room `upgrade`'s business, and what the console's commands are is that of
//! `admin`.
//!
//! Invariant: whenever no thread is in the middle of a step, a session is its value and its sockets.
//!
//! Shared by all sessions:
//!
//! | file | what it is |
//! |---|---|
//! | [`house`] | the settings in force, the pools, the registry, the stage of the process |
//! | [`registry`] | all sessions, and what others may see of each and signal to it |
//! | [`unfinished`] | how much memory the clients' unfinished messages take together |
//! | [`orders`] | commands and CancelRequests that both processes of a hand-over carry out |
//!
//! From a connection to a login:
//!
//! | file | what it is |
//! |---|---|
//! | `acceptor` | the thread that accepts connections and keeps them until their first packet has come |
//! | [`accept`] | the threads for clients, and the threads in reserve |
//! | `parking` | threads without work |
//! | [`new_connection`] | a connection before its first packet |
//! | `crowd` | connections that have not logged in, counted by address |
//! | `login_permit` | how many logins may be under way, each in a thread |
//! | `turns` | the order in which TLS handshakes begin |
//! | [`encryption`] | TLS with clients |
//! | `first_packet` | the TLS handshake and the first packet, in the connection's thread |
//! | [`login`] | from the first packet to a session |
//! | `authenticate` | the messages of MD5 and SCRAM |
//! | [`client_settings`] | what PostgreSQL makes of the settings in a startup packet |
//! | [`console_login`] | a login to the console |
//! | `cancel` | what a CancelRequest does |
//! | [`refusal`] | why a connection comes to nothing, as an error and as a log line |
//! | `rejections` | a bound on the log lines about refused connections |
//!
//! A session with its thread:
//!
//! | file | what it is |
//! |---|---|
//! | [`session`] | the value: everything that is true of a client's session except its sockets |
//! | `server_link` | the value's part about its server connection, while it has one |
//! | [`relay`] | the protocol, as a state machine without I/O |
//! | `serve` | what a thread does for one client |
//! | [`driver`] | wait, read, step, write |
//! | `pace` | reading with a short wait where a peer answers at once |
//! | `transfer` | bytes between sockets and the session's buffers |
//! | `rests` | why a thread stops driving a session that has not ended |
//! | `limits` | timeouts |
//! | `client_gone` | a client that has closed its connection |
//! | `borrow` | getting and giving back a server connection |
//! | [`lend`] | the session's place in the queue, or its server connection |
//! | [`ending`] | why a session ends, as an error and as a log line |
//! | `settle` | closing both sides |
//! | [`console`] | a session at the console |
//!
//! A session without a thread:
//!
//! | file | what it is |
//! |---|---|
//! | [`guest`] | a logged-in client with its sockets |
//! | [`bed`] | where an idle session can be taken from its thread |
//! | [`lobby`] | idle sessions after a hand-over, until they get a thread |
//! | `attend` | the thread that waits for all sessions in the lobby |

pub mod accept;
mod acceptor;
mod attend;
mod authenticate;
pub mod bed;
mod borrow;
mod cancel;
mod client_gone;
pub mod client_settings;
pub mod console;
pub mod console_login;
mod crowd;
pub mod driver;
pub mod encryption;
pub mod ending;
mod first_packet;
pub mod guest;
pub mod house;
pub mod lend;
mod limits;
pub mod lobby;
pub mod login;
mod login_permit;
pub mod new_connection;
pub mod orders;
mod pace;
mod parking;
pub mod refusal;
pub mod registry;
mod rejections;
pub mod relay;
mod rests;
mod serve;
mod server_link;
#[allow(
    clippy::module_inception,
    reason = "the file is the value: one session"
)]
pub mod session;
mod settle;
mod transfer;
mod turns;
pub mod unfinished;
