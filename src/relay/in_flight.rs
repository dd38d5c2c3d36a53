//! What is known only when a batch that is under way has been answered.
//!
//! An error makes the server skip the rest of a batch, and what was assumed of the skipped requests is
//! taken back. A request in the same batch is skipped with them and need not care. One in a later batch,
//! sent before the error is known, has to: it waits if it speaks of a name or a statement that such a
//! request has changed. Batches that use what was there before never wait.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Entries beyond which those that are settled are looked for.
const MANY: usize = 256;

/// Entries beyond which everything counts as open: one batch may go on for ever.
const MAX: usize = 128 * 1024;

/// What a request may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open<'a> {
    /// What a name of the client's means.
    Name(&'a [u8]),
    /// Whether the server has the statement with this number.
    Statement(u64),
    /// All names, and all statements of the server: DISCARD, DEALLOCATE.
    Everything,
}

/// What is open, each with the last batch that changes it. A Query is a batch too.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InFlight {
    /// The client's unnamed statement: apart, because some clients use no other.
    unnamed: Option<u64>,
    names: HashMap<Vec<u8>, u64>,
    statements: HashMap<u64, u64>,
    everything: Option<u64>,
    /// Entries at which those that are settled are looked for again.
    next_sweep: usize,
    /// Batches whose end has been sent.
    sent: u64,
    /// Batches whose end has been answered, or will not be.
    answered: u64,
    /// No request is sent before all replies have come: what they say decides what it means.
    holds_up: bool,
}

impl InFlight {
    /// Notes that the batch that is being sent changes something.
    pub fn add(&mut self, open: Open<'_>) {
        let batch = self.sent;
        match open {
            Open::Name(b"") => self.unnamed = Some(batch),
            Open::Name(name) => {
                self.names.insert(name.to_vec(), batch);
            }
            Open::Statement(number) => {
                self.statements.insert(number, batch);
            }
            Open::Everything => self.everything = Some(batch),
        }
        if self.names.len() + self.statements.len() > MANY.max(self.next_sweep) {
            let answered = self.answered;
            self.names.retain(|_, batch| *batch >= answered);
            self.statements.retain(|_, batch| *batch >= answered);
            self.next_sweep = 2 * (self.names.len() + self.statements.len());
        }
        if self.names.len() + self.statements.len() > MAX {
            self.names = HashMap::new();
            self.statements = HashMap::new();
            self.everything = Some(batch);
        }
    }

    /// Notes that the last batch, a Query that passes in parts, changes everything.
    pub fn everything_in_last(&mut self) {
        self.everything = Some(self.sent.saturating_sub(1));
    }

    /// Notes that a batch has been sent to its end.
    pub fn batch_sent(&mut self) {
        self.sent += 1;
    }

    /// Notes that a batch has been answered to its end, or that it will not be.
    pub fn batch_answered(&mut self) {
        self.answered = (self.answered + 1).min(self.sent);
    }

    /// Whether a batch is under way that has been sent to its end.
    pub fn is_any_under_way(&self) -> bool {
        self.answered < self.sent
    }

    /// Holds up all requests until nothing is under way.
    pub fn hold_up(&mut self) {
        self.holds_up = true;
    }

    /// Nothing is under way.
    pub fn nothing_under_way(&mut self) {
        self.holds_up = false;
    }

    /// Whether all requests are held up, as long as something is under way.
    pub fn holds_up(&self) -> bool {
        self.holds_up
    }

    /// Whether it is open what the client's unnamed statement is, for the batch that is being sent too.
    pub fn unnamed_is_open(&self) -> bool {
        self.unnamed.is_some_and(|batch| batch >= self.answered)
    }

    /// Whether a request that speaks of these has to wait. What the request's own batch has changed is as
    /// good as settled for it.
    pub fn concerns(&self, name: Option<&[u8]>, number: Option<u64>) -> bool {
        let of_name = name.and_then(|name| match name {
            b"" => self.unnamed,
            name => self.names.get(name).copied(),
        });
        let of_number = number.and_then(|number| self.statements.get(&number).copied());
        let under_way = self.answered..self.sent;
        [of_name, of_number, self.everything]
            .into_iter()
            .flatten()
            .any(|batch| under_way.contains(&batch))
    }
}
