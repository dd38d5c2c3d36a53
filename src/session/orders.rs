//! What is asked of the pooler as a whole, and by whom it is carried out while two processes share the clients:
//! by both. What is asked of one of them is passed on to the other.

use serde::{Deserialize, Serialize};

use super::registry::CancelKey;

/// A command of the console, or what a signal means. A name is that of a database; without one all are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// SIGHUP, RELOAD.
    Reload,
    /// SHUTDOWN: transactions finish first.
    ShutDown,
    /// SIGTERM.
    Stop,
    /// PAUSE.
    Pause(Option<String>),
    /// RESUME.
    Resume(Option<String>),
    /// RECONNECT.
    Reconnect(Option<String>),
    /// SET log_level.
    SetLogLevel(String),
}

/// What one process of a hand-over has for the other, beside sessions.
#[derive(Debug)]
pub enum Errand {
    /// A CancelRequest for a session that is not here.
    Cancel(CancelKey),
    /// An order that was given here.
    Order(Order),
}
