//! A server connection while a session has it, with all that is known of the conversation on it.
//!
//! Plain data, part of a [`Session`](crate::relay::session::Session). The rules are in [`relay`](crate::relay).
//! Invariant: `conversation` changes only by `ServerLink::converse`.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::conversation::{BoundEffects, Conversation};
use super::defaults::SettingUp;
use super::expected::Queue;
use super::going_back::GoingBack;
use super::in_flight::InFlight;
use super::session::Side;
use super::stale_plan::ReplayBuffer;
use crate::net::clock::MonotonicTime;
use crate::server::backend::Backend;
use crate::server::parse_settings::Changes;
use crate::server::prepared::Statement;

/// A server connection while a session has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServerLink {
    /// The connection's state.
    pub backend: Box<Backend>,
    /// The server's side.
    #[serde(default)]
    pub side: Side,
    /// The replies that are still to come.
    #[serde(default)]
    pub expected: Queue,
    /// Bytes that they have had the pooler keep since there were none, as far as they are not bounded by their number.
    #[serde(default)]
    pub held_back: usize,
    /// What is known only when a batch that is under way has been answered.
    #[serde(default)]
    pub in_flight: InFlight,
    /// Where the conversation with the server stands. Changed only by `ServerLink::converse`.
    #[serde(default)]
    conversation: Conversation,
    /// The client's next message waits for a reply; what it waits for is asked again when one has come.
    #[serde(default)]
    pub client_waits: bool,
    /// A Flush of the pooler's has been sent, so that PostgreSQL sends the replies that it keeps back.
    #[serde(default)]
    pub flushed: bool,
    /// How many of the expected replies, the last ones, are to requests that have no Flush of the client's behind them.
    #[serde(default)]
    pub unflushed: usize,
    /// The kind of the client's last message that was begun to be sent.
    #[serde(default)]
    pub last_request: u8,
    /// What the portals that are bound may do when they are executed.
    #[serde(default)]
    pub bound_effects: BoundEffects,
    /// The server's unnamed statement is the one that the client has parsed, or neither has any.
    #[serde(default)]
    pub unnamed_parsed: bool,
    /// What the open transaction has changed of the settings that texts are read under.
    #[serde(default)]
    pub changes: Changes,
    /// The epoch of the registry of statements in which the batches under way began.
    #[serde(skip)]
    pub epoch: u64,
    /// The open transaction has defined something anew.
    #[serde(default)]
    pub defining: bool,
    /// The portal that was bound last and its statement, if the client does not know the rows that it gives.
    #[serde(skip)]
    pub last_bound: Option<(Vec<u8>, Arc<Statement>)>,
    /// The batch under way, as far as it can be sent again.
    #[serde(default)]
    pub replay_buffer: ReplayBuffer,
    /// The server has sent a FATAL error and will close the connection.
    #[serde(default)]
    pub ended: bool,
    /// A statement of the pooler's own has failed with this error: the connection cannot be used.
    #[serde(default)]
    pub setup_error: Option<String>,
    /// A statement of the pooler's own was canceled. This is PostgreSQL's message.
    #[serde(default)]
    pub cancelled: Option<String>,
    /// When the session got it.
    #[serde(default)]
    pub since: MonotonicTime,
    /// What is being done to set it up for the client.
    #[serde(default)]
    pub setting_up: Option<Box<SettingUp>>,
    /// Its settings have been reset.
    #[serde(default)]
    pub restored: bool,
    /// PostgreSQL's refusal of settings that the client has sent, as the body of its ErrorResponse.
    #[serde(default, with = "serde_bytes")]
    pub refusal: Vec<u8>,
    /// A request of the client's was sent on it. From then on the request cannot be sent on another connection.
    pub served: bool,
    /// What the client has brought back to a default.
    #[serde(default)]
    pub going_back: GoingBack,
    /// Portals that deallocate a statement of the client's: its own name, and the number.
    #[serde(default)]
    pub portals_deallocating: HashMap<Vec<u8>, (Vec<u8>, u64)>,
    /// Settings whose values are asked for before and after cleaning.
    #[serde(default)]
    pub asked: Vec<String>,
    /// The rows of answers to the pooler's own questions: text or NULL for each column.
    #[serde(default)]
    pub answers: Vec<Vec<Option<Vec<u8>>>>,
    /// When the first of the expected replies was asked for.
    #[serde(default)]
    pub query_since: MonotonicTime,
    /// When the current transaction began.
    #[serde(default)]
    pub transaction_since: Option<MonotonicTime>,
}

impl ServerLink {
    /// A connection that was just checked out.
    pub(crate) fn new(backend: Box<Backend>, now: MonotonicTime) -> ServerLink {
        ServerLink {
            portals_deallocating: HashMap::new(),
            backend,
            side: Side::default(),
            expected: Queue::new(),
            held_back: 0,
            in_flight: InFlight::default(),
            conversation: Conversation::Between,
            client_waits: false,
            flushed: false,
            unflushed: 0,
            last_request: 0,
            bound_effects: BoundEffects::default(),
            unnamed_parsed: false,
            changes: Changes::None,
            epoch: 0,
            defining: false,
            last_bound: None,
            replay_buffer: ReplayBuffer::default(),
            ended: false,
            setup_error: None,
            cancelled: None,
            since: now,
            setting_up: None,
            restored: false,
            refusal: Vec::new(),
            served: false,
            going_back: GoingBack::default(),
            asked: Vec::new(),
            answers: Vec::new(),
            query_since: now,
            transaction_since: None,
        }
    }

    /// Where the conversation with the server stands.
    pub fn conversation(&self) -> Conversation {
        self.conversation
    }

    /// Changes where the conversation stands: the only way to. The client's next message is looked at again.
    pub(crate) fn converse(&mut self, to: Conversation) {
        self.conversation = to;
        self.client_waits = false;
    }
}
