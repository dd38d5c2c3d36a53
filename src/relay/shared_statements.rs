//! What a session asks of the statements that all sessions share.
//!
//! The registry itself, with its lock, is in `session::statement_registry`. Invariant: no number means two statements.

use std::sync::Arc;

use crate::server::prepared::Statement;

/// Looks up prepared statements that sessions share, and gives out their numbers.
pub trait SharedStatements {
    /// The time between two changes of definitions, as far as the pooler sees them: never 0.
    fn epoch(&self) -> u64;

    /// Notes that a definition has changed: the rows of any statement may have other columns now.
    fn begin_epoch(&self);

    /// The statement with this definition (the body of a Parse after the name), read under these settings, as it is
    /// understood now.
    fn intern(&self, definition: &[u8], under: &Arc<[u8]>, limit: usize) -> Arc<Statement>;

    /// A statement with the meaning of another, for one client alone.
    fn apart(&self, like: &Statement, under: &Arc<[u8]>) -> Statement;

    /// A number that no other statement gets.
    fn next_number(&self) -> u64;
}
