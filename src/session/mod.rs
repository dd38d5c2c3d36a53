//! What drives a session: threads of their own and shared sets, checkout and check-in of server connections, closing,
//! and the state that all sessions share.
//!
//! Knows neither logins nor the console's commands. Of a hand-over it knows three things: a session can be signalled to
//! go, it is then taken apart where it waits, and the client is handed in ([`shared`]). Where it goes is the business
//! of the room `upgrade`.
//!
//! Invariant: whenever no thread is in the middle of a step, a session is its value and its sockets.
//!
//! Shared by all sessions:
//!
//! | file | what it is |
//! |---|---|
//! | [`shared`] | the settings in force, the pools, the registries, the stage of the process |
//! | [`registry`] | all sessions by number and cancel key; what other threads see of each, and signal to it |
//! | [`statement_registry`] | the prepared statements that sessions share |
//! | [`memory`] | the limit on the memory of all clients' unfinished messages (`max_memory_usage`) |
//! | [`orders`] | commands and CancelRequests that both processes of a hand-over carry out |
//! | [`cancel`] | a CancelRequest: its session, and what is sent to PostgreSQL |
//! | [`user_lookup`] | users looked up in PostgreSQL, by `auth_query` |
//! | [`memberships`] | the roles of which users are members, asked of PostgreSQL |
//! | [`own_query`] | a query of the pooler's own |
//!
//! A session and what drives it:
//!
//! | file | what it is |
//! |---|---|
//! | [`client`] | a logged-in client: its session and its sockets |
//! | `sets` | which thread drives a session: the rule |
//! | `driven` | a session with its driver, in a thread of its own or in a set |
//! | `shared_set` | many sessions that one thread drives |
//! | `set_load` | whether a set has more to do than its thread can |
//! | `set_sockets` | which sockets the kernel looks at for a set, and their tokens |
//! | `set_timers` | when the sessions of a set get a turn though nothing has happened |
//! | [`driver`] | what a session does in a turn, and its wait |
//! | `traffic` | read, step through the relay, write |
//! | [`brief_read`] | reading with a short wait where a peer answers at once |
//! | `io` | bytes between sockets and the session's buffers |
//! | [`suspend`] | signals to a session, and taking it apart to move |
//! | `limits` | timeouts of a session |
//! | `client_gone` | a client that has closed its connection |
//! | [`checkout`] | checkout as a value: a place in a pool's queue, or a connection that the pool counts as in use |
//! | `attach` | checkout and check-in: when a session asks, what it does with the connection, when it goes back |
//! | [`close_reason`] | why a session ends, as an error and as a log line |
//! | `close` | closing both sides |
//! | `own_cancel` | cancelling what a client that is gone has left running |
//! | [`console`] | a session at the console |

mod attach;
pub mod brief_read;
pub mod cancel;
pub mod checkout;
pub mod client;
mod client_gone;
mod close;
pub mod close_reason;
pub mod console;
pub(crate) mod driven;
pub mod driver;
mod io;
mod limits;
pub mod memberships;
pub mod memory;
pub mod orders;
mod own_cancel;
pub mod own_query;
pub mod registry;
mod set_load;
mod set_sockets;
mod set_timers;
pub(crate) mod sets;
pub mod shared;
mod shared_set;
pub mod statement_registry;
pub mod suspend;
mod traffic;
pub mod user_lookup;
