//! How much a client may have prepared, and how much one server connection keeps prepared.
//!
//! Only counts and words a refusal; who refuses is in [`parsing`](crate::relay::parsing). The invariant: what counts
//! against a limit is what the session holds now, so that a Close makes room at once.

use super::expected::Refusal;
use super::session::Session;
use crate::server::prepared::Limit;
use crate::wire::sqlstate;

impl Session {
    /// What one server connection keeps.
    pub(super) fn limit_per_server(&self) -> Limit {
        Limit {
            statements: self.rules.prepared_per_server,
            bytes: self.rules.prepared_bytes_per_server,
        }
    }

    /// Whether a Parse with this many bytes would be more than the client may have the pooler keep.
    pub(super) fn is_too_much(&self, body: usize) -> bool {
        self.statements.bytes().saturating_add(body) > self.rules.memory_per_client
    }

    pub(super) fn too_much(&self) -> Refusal {
        let words = format!(
            "out of memory: this client has the pooler keep {} bytes of prepared statements and may have {} \
             (client_memory_limit); close those that are no longer needed",
            self.statements.bytes(),
            self.rules.memory_per_client
        );
        Refusal {
            code: sqlstate::OUT_OF_MEMORY.to_owned(),
            words,
            routine: None,
        }
    }

    /// How many statements the client may have, its unnamed one included.
    pub(super) fn named_limit(&self) -> usize {
        let unnamed = usize::from(self.statements.contains_key(&b""[..]));
        self.rules.prepared_per_client.saturating_add(unnamed)
    }

    pub(super) fn too_many_statements(&self) -> Refusal {
        let words = format!(
            "too many prepared statements: this client has {} and the pooler allows no more \
             (client_prepared_statements_max); close those that are no longer needed",
            self.rules.prepared_per_client
        );
        Refusal {
            code: sqlstate::LIMIT_EXCEEDED.to_owned(),
            words,
            routine: None,
        }
    }
}
