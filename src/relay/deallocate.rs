//! DEALLOCATE in SQL: it names a statement by the client's name; the server has it under another name.
//!
//! A single DEALLOCATE is understood, in a Query and in a statement, there when it is bound. In an open batch only
//! PostgreSQL can answer a Query; it deallocates a statement that the pooler has made for that. One among several
//! statements of a Query finds no statement that follows its client. No client reaches another's statement by the
//! name it has on servers.

use std::sync::{Arc, OnceLock};

use memchr::memmem::Finder;

use super::conversation::Conversation;
use super::expected::{Deliver, Expected, Refusal, Reply, Undo};
use super::held_statements::HeldStatements;
use super::in_flight::Open;
use super::link_setup::POOLERS;
use super::names::key;
use super::output::Output;
use super::requests::Step;
use super::session::{ServerLink, Session};
use super::statements::{close_message, parse_message};
use crate::server::prepared::{NOBODYS, PREFIX, Statement};
use crate::server::sql_deallocate::{self, Target};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error::{Severity, error_response};
use crate::wire::frame::{self, HEADER, Header};
use crate::wire::sqlstate;
use crate::wire::{frontend, write};

/// A statement that is deallocated: the client's name for it, and what it means.
pub(super) type Deallocated = (Vec<u8>, Arc<Statement>);

/// That there is no such statement, in PostgreSQL's words.
pub(super) fn does_not_exist(name: &[u8]) -> Refusal {
    let words = match name {
        b"" => "unnamed prepared statement does not exist".to_owned(),
        name => format!(
            "prepared statement \"{}\" does not exist",
            String::from_utf8_lossy(name)
        ),
    };
    Refusal {
        code: sqlstate::INVALID_STATEMENT_NAME.to_owned(),
        words,
        routine: None,
    }
}

/// Whether a name that means nothing to the client may be that of another's statement on the server.
pub(super) fn is_poolers_own(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

impl Session {
    /// Answers a DEALLOCATE in place if that can be done: the statement follows its client and stays on
    /// the server for others.
    pub(super) fn deallocate(
        &mut self,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Option<Step> {
        if !self.rules.follow_statements || self.refusing {
            return None;
        }
        let without_server = self.status_without_server();
        let text = rest.get(HEADER..head.whole())?;
        let meant = deallocated(text).or_else(|| internal_name(text).map(Target::One))?;
        let open = |link: &ServerLink| link.conversation() != Conversation::Between;
        if self.link.as_ref().is_some_and(open) {
            let Target::One(name) = meant else {
                return None;
            };
            return self.deallocate_in_batch(name, head, at, rest, out);
        }
        match meant {
            // Where no server is in a transaction there are no others than those that follow.
            Target::All if self.link.is_none() && without_server != TransactionStatus::Failed => {
                self.statements = HeldStatements::default();
                out.client.write(|own| {
                    backend::command_complete(own, "DEALLOCATE ALL");
                    backend::ready_for_query(own, without_server);
                });
            }
            Target::All => return None,
            // A request under way that has closed it may be skipped.
            Target::One(name) if self.must_wait_for(Some(&name), None) => {
                return Some(Step::MustWait);
            }
            Target::One(name) if self.statements.contains_key(&name) => {
                let under_way = |link: &ServerLink| !link.expected.is_empty();
                if self.link.as_ref().is_some_and(under_way) {
                    // What comes of them decides whether there is such a name, and a transaction.
                    return Some(Step::MustWait);
                }
                let link = self.link.as_ref();
                let status = link.map_or(without_server, |link| link.backend.status);
                // As any Query does; this one is not sent to the server.
                self.statements.remove(&b""[..]);
                if let Some(link) = &mut self.link {
                    link.unnamed_parsed = false;
                }
                if status != TransactionStatus::Failed {
                    self.statements.remove(&name);
                }
                out.client.write(|own| answer(own, status));
            }
            Target::One(name) if is_poolers_own(&name) => {
                let refusal = does_not_exist(&name);
                if self.link.is_none() && without_server == TransactionStatus::Idle {
                    out.client.write(|own| {
                        error_response(own, Severity::Error, &refusal.code, &refusal.words);
                        backend::ready_for_query(own, TransactionStatus::Idle);
                    });
                } else if self.link.is_none() {
                    return None;
                } else {
                    self.deallocate_nobodys(refusal, out);
                }
            }
            Target::One(_) => return None,
        }
        Some(self.begin(head, at, rest, true, out))
    }

    /// A DEALLOCATE of what no client may have fails, and its transaction with it: the server is asked for a statement
    /// that nobody has.
    fn deallocate_nobodys(&mut self, refusal: Refusal, out: &mut Output) {
        let undo = Undo {
            name: self.drop_unnamed(),
            refusal: Some(refusal),
            ..Undo::default()
        };
        out.server.write(|own| {
            frontend::query(own, &format!("DEALLOCATE \"{NOBODYS}\""));
        });
        let reply = Reply::UntilReady {
            transaction_local: false,
        };
        self.expect(Expected::undoing(reply, Deliver::Forward, undo), out);
    }

    /// A DEALLOCATE in an open batch, which the server may yet skip: it gets one that succeeds or fails as the
    /// client's would, of a statement of the pooler's own.
    fn deallocate_in_batch(
        &mut self,
        name: Vec<u8>,
        head: Header,
        at: usize,
        rest: &[u8],
        out: &mut Output,
    ) -> Option<Step> {
        if self.must_wait_for(Some(&name), None) {
            return Some(Step::MustWait);
        }
        if let Some(link) = &mut self.link {
            link.replay_buffer.give_up();
            link.last_request = frontend::QUERY;
        }
        if self.statements.contains_key(&name) {
            out.server.write(|own| {
                close_message(own, POOLERS);
                // An empty text is parsed in a failed transaction too.
                parse_message(own, POOLERS.as_bytes(), &[0; 3]);
                frontend::query(own, &format!("DEALLOCATE \"{POOLERS}\""));
            });
            self.expect(Expected::swallow(Reply::Close), out);
            self.expect(Expected::swallow(Reply::Parse), out);
            if let Some(link) = &mut self.link {
                link.in_flight.add(Open::Name(&name));
            }
            let undo = Undo {
                name: self.drop_unnamed(),
                deallocates: Some((name, None)),
                ..Undo::default()
            };
            let reply = Reply::UntilReady {
                transaction_local: false,
            };
            self.expect(Expected::undoing(reply, Deliver::Forward, undo), out);
        } else if is_poolers_own(&name) {
            self.deallocate_nobodys(does_not_exist(&name), out);
        } else {
            return None;
        }
        Some(self.begin(head, at, rest, true, out))
    }

    /// The client's name and the statement, if this is the definition of a `DEALLOCATE` of one of its own.
    ///
    /// # Errors
    /// The name, if the client has none and the server may: another's, or one that was the client's.
    pub(super) fn deallocated_by(&self, definition: &[u8]) -> Result<Option<Deallocated>, Vec<u8>> {
        let text_end = definition.iter().position(|&b| b == 0).unwrap_or(0);
        if let Some(name) = internal_name(&definition[..=text_end]) {
            return Err(name);
        }
        let Some(Target::One(name)) = deallocated(&definition[..=text_end]) else {
            return Ok(None);
        };
        match self.statements.get(&name) {
            Some(meant) => Ok(Some((name, Arc::clone(meant)))),
            None if is_poolers_own(&name) => Err(name),
            None => Ok(None),
        }
    }
}

/// The answer to a DEALLOCATE of what is there, as PostgreSQL would give it in this state.
fn answer(out: &mut Vec<u8>, status: TransactionStatus) {
    if status == TransactionStatus::Failed {
        error_response(
            out,
            Severity::Error,
            sqlstate::IN_FAILED_TRANSACTION,
            "current transaction is aborted, commands ignored until end of transaction block",
        );
    } else {
        backend::command_complete(out, "DEALLOCATE");
    }
    backend::ready_for_query(out, status);
}

/// The name of the pooler's own that a text, with its NUL, executes, deallocates or prepares, if it does.
fn internal_name(text: &[u8]) -> Option<Vec<u8>> {
    static PREFIXES: OnceLock<Finder<'static>> = OnceLock::new();
    let prefix = PREFIXES.get_or_init(|| Finder::new(PREFIX));
    // Almost no text has it.
    prefix.find(text)?;
    sql_deallocate::speaks_of(text.strip_suffix(b"\0").unwrap_or(text), is_poolers_own)
}

/// What the text, with its NUL, speaks of, if it is a single DEALLOCATE.
fn deallocated(text: &[u8]) -> Option<Target> {
    let text = text.strip_suffix(b"\0")?;
    // Almost every text is told by its first letter.
    match text.iter().find(|b| !b.is_ascii_whitespace())? {
        b'd' | b'D' | b'/' | b'-' => match sql_deallocate::deallocated(text)? {
            Target::One(name) => Some(Target::One(key(&name).to_vec())),
            Target::All => Some(Target::All),
        },
        _ => None,
    }
}

/// A `DEALLOCATE` of this statement by its name on servers, with the parameter types of `definition`.
pub(super) fn deallocation(meant: &Statement, definition: &[u8]) -> Vec<u8> {
    let mut renamed = Vec::new();
    let text = format!("DEALLOCATE \"{}\"", meant.server_name());
    write::c_string(&mut renamed, text.as_bytes());
    let types = frame::c_string(definition).map_or(&[0, 0][..], |(_, types)| types);
    renamed.extend_from_slice(types);
    renamed
}
