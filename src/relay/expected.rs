//! The queue of replies a client still expects: the one place where a reply is invented or dropped.
//!
//! Each request that goes to the server appends an entry, and so does each that the pooler answers
//! itself; the order of the client's replies is the order of the queue, whatever the server's replies are
//! cut into. An entry also says what must be taken back if its reply never comes, because an error made
//! the server skip the request.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::session::is_default;
use crate::server::dirty::DirtyState;
use crate::server::parse_settings::Changes;
use crate::server::prepared::Statement;

/// The reply to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To Query or FunctionCall: everything up to a ReadyForQuery.
    UntilReady {
        /// The Query is one SET that ends with its transaction.
        #[serde(default)]
        transaction_local: bool,
    },
    /// To Sync: a ReadyForQuery.
    Ready,
    /// To Parse: ParseComplete.
    Parse,
    /// To Bind: BindComplete.
    Bind,
    /// To Describe of a statement or a portal: its last message is RowDescription or NoData.
    Describe,
    /// To Execute: its last message is CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// To Close: CloseComplete.
    Close,
    /// To a request that the pooler refuses: an ErrorResponse, which the server is made to give.
    Refused,
    /// None. Marks where the client's CopyDone or CopyFail stands among its requests.
    CopyEnd,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reply::UntilReady { .. } => "the reply to a Query or FunctionCall",
            Reply::Ready => "the reply to a Sync",
            Reply::Parse => "the reply to a Parse",
            Reply::Bind => "the reply to a Bind",
            Reply::Describe => "the reply to a Describe",
            Reply::Execute => "the reply to an Execute",
            Reply::Close => "the reply to a Close",
            Reply::Refused => "an error",
            Reply::CopyEnd => "the end of a copy",
        })
    }
}

/// Why the pooler refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The SQLSTATE.
    pub code: String,
    /// For the client.
    pub words: String,
    /// The routine of PostgreSQL's whose refusal this is, if drivers recognise it by that.
    #[serde(default)]
    pub routine: Option<String>,
}

/// What is done with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deliver {
    /// It is passed on to the client.
    Forward,
    /// It is dropped: the pooler asked, not the client.
    Swallow,
    /// The pooler makes it: the server was not asked.
    Produce,
}

/// What is taken back if the reply never comes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Undo {
    /// A name of the client's, and what it meant before.
    pub name: Option<(Vec<u8>, Option<Arc<Statement>>)>,
    /// Whether the server's unnamed statement was the client's before an unnamed Parse that follows no client.
    pub unnamed_parsed: Option<bool>,
    /// The statement was not prepared on the server after all.
    pub not_prepared: Option<u64>,
    /// The statement was not closed on the server after all.
    pub not_closed: Option<u64>,
    /// What the Query changes, if it succeeds, of the settings that texts are read under.
    #[serde(default)]
    pub changes: Changes,
    /// What the request deallocates if it succeeds: the client's name, and the number if the server loses it too.
    #[serde(default)]
    pub deallocates: Option<(Vec<u8>, Option<u64>)>,
    /// The error for the client if the request fails at its turn.
    #[serde(default)]
    pub refusal: Option<Refusal>,
}

impl Undo {
    /// An unnamed Parse that does not follow its client may fail or be skipped. `before`: whether the server's
    /// unnamed statement was the client's then.
    pub fn of_unnamed(before: bool) -> Undo {
        Undo {
            unnamed_parsed: Some(before),
            ..Undo::default()
        }
    }

    /// The Parse of the statement with this number may fail or be skipped.
    pub fn not_parsed(number: u64) -> Undo {
        Undo {
            not_prepared: Some(number),
            ..Undo::default()
        }
    }
}

/// An expected reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The reply.
    pub reply: Reply,
    /// What is done with it.
    pub deliver: Deliver,
    /// What is taken back if it never comes.
    #[serde(default)]
    pub undo: Option<Box<Undo>>,
    /// The statement that it is about, if it is one that follows its client.
    #[serde(default)]
    pub statement: Option<u64>,
    /// Of `Ready`, if not 0: it stands for so many Syncs that PostgreSQL may have ignored while it copied in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub uncertain: u32,
    /// The statement whose rows it describes, if that is to be noted.
    #[serde(default)]
    pub describes: Option<Arc<Statement>>,
    /// What running it may do, as far as what comes behind depends on it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub effects: DirtyState,
    /// The client's own name of the statement, if it has one and it is not in `undo`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub called: Option<Box<[u8]>>,
}

impl Expected {
    /// The client's own name of the statement that its request speaks of.
    pub fn name(&self) -> Option<&[u8]> {
        let parsed = self.undo.as_ref().and_then(|undo| undo.name.as_ref());
        self.called.as_deref().or(parsed.map(|(name, _)| &name[..]))
    }

    /// Bytes that it keeps: names, and the text that a name stood for before.
    pub fn holds(&self) -> usize {
        let called = self.called.as_ref().map_or(0, |name| name.len());
        let undo = self.undo.as_ref().map_or(0, |undo| {
            let named = undo.name.as_ref().map_or(0, |(name, before)| {
                let text = before.as_ref().map_or(0, |before| before.definition.len());
                name.len() + text
            });
            let words = undo
                .refusal
                .as_ref()
                .map_or(0, |refusal| refusal.words.len());
            named + words
        });
        called + undo
    }

    /// Whether it is the last reply to a batch, which comes without anything more being sent.
    pub fn ends_batch(&self) -> bool {
        matches!(self.reply, Reply::UntilReady { .. } | Reply::Ready)
    }

    /// A reply that is passed on and changes nothing.
    pub fn forward(reply: Reply) -> Expected {
        Expected {
            reply,
            deliver: Deliver::Forward,
            undo: None,
            statement: None,
            uncertain: 0,
            describes: None,
            effects: DirtyState::NONE,
            called: None,
        }
    }

    /// A reply that takes something back if it never comes.
    pub fn undoing(reply: Reply, deliver: Deliver, undo: Undo) -> Expected {
        Expected {
            reply,
            deliver,
            undo: Some(Box::new(undo)),
            statement: None,
            uncertain: 0,
            describes: None,
            effects: DirtyState::NONE,
            called: None,
        }
    }

    /// Replies to so many Syncs that may have been ignored.
    pub fn uncertain(syncs: u32) -> Expected {
        Expected {
            uncertain: syncs,
            ..Expected::forward(Reply::Ready)
        }
    }

    /// A reply that is dropped.
    pub fn swallow(reply: Reply) -> Expected {
        Expected {
            reply,
            deliver: Deliver::Swallow,
            undo: None,
            statement: None,
            uncertain: 0,
            describes: None,
            effects: DirtyState::NONE,
            called: None,
        }
    }
}

/// The queue.
pub type Queue = VecDeque<Expected>;
