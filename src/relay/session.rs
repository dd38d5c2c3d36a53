//! A session as a value: everything that is true of a client's session except its sockets.
//!
//! It can be written down at any wait and go on in another process. What the protocol makes of it is in
//! [`relay`](crate::relay); the thread that drives it is in [`driver`](crate::session::driver).

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::begin::Deferred;
use super::check_query::CapturedReply;
use super::client_end::ClientEnd;
use super::held_statements::HeldStatements;
use super::parse_settings::ParseSettings;
pub use super::server_link::ServerLink;
use super::stale_plan::Doubt;
use crate::net::address::Address;
use crate::net::clock::MonotonicTime;
use crate::pool::pool_config::{Mode, PoolConfig};
use crate::pool::totals::Counters;
use crate::server::dirty::Scan;
use crate::server::parameters::Parameters;
use crate::server::prepared::Statement;

/// What a session is doing. Changed only by `Session::enter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It has no server connection and needs none.
    Idle,
    /// It waits for a server connection since this moment. Its request is unread.
    Queued(MonotonicTime),
    /// It has a server connection that is being checked or set up for it. Its request is unread.
    Preparing,
    /// It has a server connection; requests and replies pass.
    Serving,
    /// Its transaction is over or its client gone, and what it left on the server connection is being
    /// undone.
    Cleaning,
    /// Its server connection is clean, or was clean all along, and is to be given back.
    Returning,
}

/// A message that has passed in part.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Frame {
    /// Bytes that have not come yet.
    pub left: usize,
    /// Whether they are dropped when they come.
    pub dropped: bool,
    /// Whether they are text that is looked through for traces.
    pub scan: Option<Scan>,
    /// Whether it is a row of so many bytes that whoever receives it must keep on reading.
    pub huge: bool,
}

/// One side of a session.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Side {
    /// Bytes read from it and not yet acted upon.
    #[serde(with = "serde_bytes")]
    pub unread: Vec<u8>,
    /// Bytes to be written to it.
    #[serde(with = "serde_bytes")]
    pub owed: Vec<u8>,
    /// The message from it that is passing.
    pub frame: Frame,
}

/// The settings of the session's pool that concern the protocol. They are refreshed at each checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// When the connection goes back.
    pub mode: Mode,
    /// Whether the client's prepared statements follow it.
    pub follow_statements: bool,
    /// Statements that are remembered although no client has them prepared.
    pub prepared_cache: usize,
    /// Statements kept on one server connection.
    pub prepared_per_server: usize,
    /// Bytes of their text.
    pub prepared_bytes_per_server: usize,
    /// Bytes that the client may have the pooler keep for it.
    pub memory_per_client: usize,
    /// Named statements the client may have.
    pub prepared_per_client: usize,
    /// Whether what the client leaves is undone.
    pub clean: bool,
    /// Whether each parameter change that PostgreSQL reports is logged.
    pub log_parameters: bool,
}

impl Default for Rules {
    /// Those of a pool that says nothing.
    fn default() -> Rules {
        Rules {
            mode: Mode::Transaction,
            follow_statements: true,
            prepared_cache: 0,
            prepared_per_server: 1,
            prepared_bytes_per_server: usize::MAX,
            memory_per_client: usize::MAX,
            prepared_per_client: usize::MAX,
            clean: true,
            log_parameters: false,
        }
    }
}

impl From<&PoolConfig> for Rules {
    fn from(config: &PoolConfig) -> Rules {
        Rules {
            mode: config.mode,
            // A client that keeps its server connection has its statements there, under its own names.
            follow_statements: config.prepared_statements && config.mode == Mode::Transaction,
            prepared_cache: config.prepared_cache,
            prepared_per_server: config.prepared_per_server,
            prepared_bytes_per_server: config.prepared_bytes_per_server,
            memory_per_client: config.memory_per_client,
            prepared_per_client: config.prepared_per_client,
            clean: config.clean,
            log_parameters: config.log_parameter_changes,
        }
    }
}

/// Whether a part is as in a session of which nothing is under way: thousands of these move at once, and what is
/// not written down has not to be read.
pub(crate) fn is_default<T: Default + PartialEq>(part: &T) -> bool {
    *part == T::default()
}

fn is_empty(settings: &Arc<Parameters>) -> bool {
    settings.is_empty()
}

fn none_held(statements: &HeldStatements) -> bool {
    statements.is_empty()
}

/// A client's session.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    /// Its number. [`process_id`] makes of it the process id in its BackendKeyData.
    pub id: u64,
    /// The secret in its BackendKeyData.
    #[serde(with = "serde_bytes")]
    pub secret: Vec<u8>,
    /// The database, as the client named it.
    pub database: String,
    /// The user, as the client named it.
    pub user: String,
    /// Where the client is.
    pub address: Address,
    /// When it connected.
    #[serde(default)]
    pub connected_at: MonotonicTime,
    /// The time, as of the last wait: the relay looks at no clock.
    #[serde(default)]
    pub now: MonotonicTime,
    /// When its client or its server last sent something.
    #[serde(default)]
    pub active_at: MonotonicTime,
    /// What it is doing.
    phase: Phase,
    /// The rules it is served by.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rules: Rules,
    /// The settings that PostgreSQL reports, as the client knows them.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub reported_to_client: Arc<Parameters>,
    /// Settings of its own that PostgreSQL does not report.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub untracked: Arc<Parameters>,
    /// The settings it asked for at startup: what RESET goes back to.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub startup_settings: Arc<Parameters>,
    /// What PostgreSQL would report had it chosen nothing.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub defaults: Arc<Parameters>,
    /// The settings of its startup packet were reported as they were sent: PostgreSQL has yet to take them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub as_sent: bool,
    /// The statements it has prepared, by its own names; the unnamed one has the empty name.
    #[serde(default, skip_serializing_if = "none_held")]
    pub statements: HeldStatements,
    /// What stands for some of them under other settings than those they were prepared under, by number.
    #[serde(skip)]
    pub substitutes: HashMap<u64, Arc<Statement>>,
    /// The client's side.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client: Side,
    /// Its server connection, while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<ServerLink>,
    /// The client is gone; replies are dropped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub abandoned: bool,
    /// Whether and how the client has ended its requests.
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_end: ClientEnd,
    /// A request was refused: what the client sends is dropped up to its next Sync.
    #[serde(default, skip_serializing_if = "is_default")]
    pub refusing: bool,
    /// The transaction block that it has begun and no server knows of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deferred: Deferred,
    /// It has set a setting of its startup packet otherwise since.
    #[serde(default, skip_serializing_if = "is_default")]
    pub departs: bool,
    /// The settings that the texts of its statements are read under.
    #[serde(skip)]
    pub under: ParseSettings,
    /// The answer to the check query, on its way to the client.
    #[serde(skip)]
    pub captured_reply: CapturedReply,
    /// Its next request is taken up again because a plan was stale: it will not misread the new one's rows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub begins_again: bool,
    /// A statement that is parsed anew because an older analysis of it has failed.
    #[serde(skip)]
    pub doubt: Option<Box<Doubt>>,
    /// Its server connection is of no use; its request is unread, to be sent on another.
    #[serde(skip)]
    pub elsewhere: bool,
    /// What it has done since its pool last counted it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub work: Counters,
}

impl Session {
    /// A session that has just logged in.
    #[allow(clippy::too_many_arguments, reason = "a value's parts, each said once")]
    pub fn new(
        id: u64,
        secret: Vec<u8>,
        database: String,
        user: String,
        address: Address,
        connected_at: MonotonicTime,
        rules: Rules,
        reported_to_client: Arc<Parameters>,
        untracked: Arc<Parameters>,
        startup_settings: Arc<Parameters>,
    ) -> Session {
        Session {
            id,
            secret,
            database,
            user,
            address,
            connected_at,
            now: connected_at,
            active_at: MonotonicTime::now(),
            phase: Phase::Idle,
            rules,
            reported_to_client,
            untracked,
            startup_settings,
            defaults: Arc::default(),
            as_sent: false,
            statements: HeldStatements::default(),
            substitutes: HashMap::new(),
            client: Side::default(),
            link: None,
            abandoned: false,
            client_end: ClientEnd::Open,
            refusing: false,
            deferred: Deferred::Nothing,
            departs: false,
            under: ParseSettings::default(),
            captured_reply: CapturedReply::default(),
            begins_again: false,
            doubt: None,
            elsewhere: false,
            work: Counters::default(),
        }
    }

    /// What the session is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Lets the session do something else: the only way to.
    pub(crate) fn enter(&mut self, phase: Phase) {
        debug_assert!(
            matches!(
                (self.phase, phase),
                (Phase::Idle, Phase::Queued(_) | Phase::Preparing | Phase::Serving)
                    | (Phase::Queued(_), Phase::Idle | Phase::Preparing | Phase::Serving)
                    // Back to Queued: the connection was dead.
                    | (Phase::Preparing, Phase::Serving | Phase::Queued(_) | Phase::Cleaning | Phase::Returning | Phase::Idle)
                    | (Phase::Serving, Phase::Preparing | Phase::Cleaning | Phase::Returning | Phase::Idle)
                    | (Phase::Cleaning, Phase::Cleaning | Phase::Returning | Phase::Idle)
                    | (Phase::Returning, Phase::Cleaning | Phase::Idle)
            ),
            "from {:?} to {phase:?}",
            self.phase
        );
        self.phase = phase;
    }

    /// From now on other rules apply. What the client has prepared follows it also if its pool is run otherwise since.
    pub fn follow(&mut self, rules: Rules) {
        self.rules = rules;
        let named = |name: &Vec<u8>| !name.is_empty();
        self.rules.follow_statements |= self.statements.keys().any(named);
    }

    /// The statements that are written down with it, wherever it holds them.
    pub fn statements_mut(&mut self) -> impl Iterator<Item = &mut Arc<Statement>> {
        let expected = self.link.iter_mut().flat_map(|link| &mut link.expected);
        let due = expected.flat_map(|expected| {
            let undo = expected.undo.as_mut();
            let before = undo.and_then(|undo| undo.name.as_mut()?.1.as_mut());
            before.into_iter().chain(&mut expected.describes)
        });
        self.statements.values_mut().chain(due)
    }

    /// Whether the server connection has been used for the client.
    pub fn has_served(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.served)
    }

    /// Whether the client has had the server's last message whole, so that one of the pooler's own can
    /// follow.
    pub fn client_is_between_messages(&self) -> bool {
        self.link.as_ref().is_none_or(|link| {
            let frame = &link.side.frame;
            frame.left == 0 || frame.dropped
        })
    }

    /// Whether the client does not take the rest of a huge row, and so keeps its server connection from
    /// everybody else.
    pub fn holds_up_huge_row(&self) -> bool {
        let huge = |link: &ServerLink| link.side.frame.huge;
        !self.client.owed.is_empty() && self.link.as_ref().is_some_and(huge)
    }

    /// Whether the session has no server connection, and nothing of it is under way.
    pub fn is_silent(&self) -> bool {
        self.phase == Phase::Idle
            && self.client.unread.is_empty()
            && self.client.owed.is_empty()
            && self.client.frame.left == 0
    }

    /// Whether the session keeps its server connection and both have nothing to do.
    pub fn rests_with_server(&self) -> bool {
        self.rules.mode == Mode::Session
            && self
                .link
                .as_ref()
                .is_some_and(|link| link.expected.is_empty() && link.transaction_since.is_none())
    }

    /// How log lines name it.
    pub fn tag(&self) -> String {
        format!("[{}@{} #c{}]", self.user, self.database, self.id)
    }
}

/// Linux gives no process an id from this one on (`PID_MAX_LIMIT`).
const BEYOND_PROCESS_IDS: u64 = 1 << 22;

/// The process id in the BackendKeyData of the client with this number: 2^22 plus the number, wrapped to
/// what the field holds. No process can have it, so `pg_cancel_backend` of it hits no other backend.
pub fn process_id(id: u64) -> i32 {
    let room = i32::MAX as u64 - BEYOND_PROCESS_IDS;
    i32::try_from(BEYOND_PROCESS_IDS + id % room).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_id_of_a_client_is_one_that_no_process_can_have() {
        assert_eq!(process_id(7), (1 << 22) + 7);
        for id in [0, 1, i32::MAX as u64, u64::from(u32::MAX), u64::MAX] {
            assert!(process_id(id) >= 1 << 22, "{id}");
        }
    }
}
