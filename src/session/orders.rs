//! Commands that concern the whole pooler, and CancelRequests, while two processes share the clients.
//!
//! Both processes carry a command out: the one that gets it passes it on. Nothing is carried out here.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::registry::CancelKey;

/// A command of the console or a signal that both processes of a hand-over carry out. A name is that of a database;
/// without one, all databases are meant.
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

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (command, database) = match self {
            Order::Reload => ("RELOAD", None),
            Order::ShutDown => ("SHUTDOWN", None),
            Order::Stop => ("SIGTERM", None),
            Order::Pause(database) => ("PAUSE", database.as_deref()),
            Order::Resume(database) => ("RESUME", database.as_deref()),
            Order::Reconnect(database) => ("RECONNECT", database.as_deref()),
            Order::SetLogLevel(filter) => return write!(f, "SET log_level = '{filter}'"),
        };
        match database {
            Some(database) => write!(f, "{command} {database}"),
            None => f.write_str(command),
        }
    }
}

/// What one process of a hand-over has for the other, beside sessions.
#[derive(Debug)]
pub enum Errand {
    /// A CancelRequest for a session that is not here.
    Cancel(CancelKey),
    /// An order that was given here.
    Order(Order),
}
