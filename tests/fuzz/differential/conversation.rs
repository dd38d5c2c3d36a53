//! Where a client's conversation with PostgreSQL stands, as PostgreSQL's own replies tell.
//!
//! Only used for the direct side, whose replies are complete when the next message is sent.

use crate::frontend::Front;
use crate::reply::Reply;

/// What a conversation is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Between batches, in no transaction.
    Idle,
    /// Between batches, in a transaction.
    Transaction,
    /// Between batches, in a failed transaction.
    Failed,
    /// In a batch of the extended protocol.
    Batch,
    /// Behind an error, up to the next Sync.
    Skipping,
    /// In a COPY FROM STDIN.
    CopyingIn,
    /// Behind a COPY TO STDOUT whose rows were not read before this message was sent.
    CopyingOut,
}

/// All places, in the order of the table.
pub const PLACES: [Place; 7] = [
    Place::Idle,
    Place::Transaction,
    Place::Failed,
    Place::Batch,
    Place::Skipping,
    Place::CopyingIn,
    Place::CopyingOut,
];

/// A conversation's state.
#[derive(Clone, Copy, Debug)]
pub struct Conversation {
    status: u8,
    batch: bool,
    skipping: bool,
    copying: bool,
    owed: bool,
    copied_out: bool,
    unended: bool,
}

impl Conversation {
    /// Behind a login.
    pub const fn new() -> Self {
        Self {
            status: b'I',
            batch: false,
            skipping: false,
            copying: false,
            owed: false,
            copied_out: false,
            unended: false,
        }
    }

    /// This message was sent.
    pub fn sent(&mut self, message: &Front) {
        self.copied_out = false;
        self.unended &= matches!(message.kind(), 'd' | 'S' | 'H');
        match message.kind() {
            'P' | 'B' | 'D' | 'E' | 'C' | 'H' if !self.copying => self.batch = true,
            'Q' | 'F' | 'S' => self.owed = true,
            _ => {}
        }
    }

    /// These were the replies to it.
    pub fn replied(&mut self, replies: &[Reply]) {
        for reply in replies {
            match reply.kind {
                b'Z' => {
                    *self = Self {
                        status: reply.body.first().copied().unwrap_or(b'I'),
                        copied_out: self.copied_out,
                        unended: self.unended,
                        ..Self::new()
                    };
                }
                b'E' => {
                    self.skipping = self.batch;
                    self.copying = false;
                }
                b'G' => (self.copying, self.unended) = (true, true),
                b'C' => self.copying = false,
                b'H' => self.copied_out = true,
                _ => {}
            }
        }
    }

    /// The next message was sent before the replies to the last one were read: there are no rows under way else.
    pub fn read(&mut self) {
        self.copied_out = false;
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        match self.status {
            _ if self.copying => Place::CopyingIn,
            _ if self.skipping => Place::Skipping,
            _ if self.copied_out => Place::CopyingOut,
            _ if self.batch => Place::Batch,
            b'T' => Place::Transaction,
            b'E' => Place::Failed,
            _ => Place::Idle,
        }
    }

    /// Whether PostgreSQL owes nothing and expects nothing.
    pub fn at_rest(&self) -> bool {
        self.status == b'I' && !self.batch && !self.skipping && !self.copying && !self.owed
    }

    /// Whether a COPY FROM STDIN was begun last, which the client has not ended, though it may have failed.
    pub fn is_in_unended_copy(&self) -> bool {
        self.unended
    }

    /// Whether such a copy has failed.
    pub fn is_behind_unended_copy(&self) -> bool {
        self.unended && !self.copying
    }

    /// Whether it is in a failed transaction block.
    pub fn failed(&self) -> bool {
        self.status == b'E'
    }
}
