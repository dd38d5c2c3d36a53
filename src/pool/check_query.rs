//! The answer to `pooler_check_query`, as PostgreSQL has given it and as long as it may be given again.
//!
//! Invariant: it was given by a connection made under the configuration in force, to that
//! configuration's query, and no connection to the server has failed since.

use std::sync::Arc;

use super::pool::Pool;
use super::pool_config::PoolConfig;
use super::state::State;

impl Pool {
    /// PostgreSQL's answer to the check query of `config`, if it may be given for it.
    pub fn check_answer(&self, config: &Arc<PoolConfig>) -> Option<Arc<[u8]>> {
        let state = self.lock();
        // Without a connection the end of the server would not be noticed.
        let may = Arc::ptr_eq(&state.config, config) && !state.closed && state.has_connections();
        state.check_answer.clone().filter(|_| may)
    }

    /// Keeps the answer to the check query of `config`, given by a connection of this epoch.
    pub fn keep_check_answer(&self, config: &Arc<PoolConfig>, epoch: u64, answer: Vec<u8>) {
        let mut state = self.lock();
        if Arc::ptr_eq(&state.config, config) && state.epoch == epoch {
            state.check_answer = Some(answer.into());
        }
    }
}

impl State {
    /// A connection was lost or could not be made, or is no longer wanted: PostgreSQL is to be asked again.
    pub(super) fn forget_check_answer(&mut self) {
        self.check_answer = None;
    }

    fn has_connections(&self) -> bool {
        self.in_use + self.idle.len() > 0
    }
}
