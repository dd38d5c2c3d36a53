//! What startup settings come to on a pool's servers: asked of PostgreSQL once and remembered.

use std::sync::Arc;

use super::pool::Pool;
use crate::server::parameters::Parameters;

/// Sets of startup settings whose effect a pool remembers.
const KNOWN_SETTINGS: usize = 256;

/// Settings as a client sent them.
pub type Settings = Vec<(String, Vec<u8>)>;

/// What a set of startup settings comes to on this pool's servers.
#[derive(Debug, Clone)]
pub struct Effect {
    /// What PostgreSQL reports then.
    pub reported: Arc<Parameters>,
    /// The settings among them that PostgreSQL does not report.
    pub unreported: Arc<Parameters>,
}

impl Effect {
    /// The values that the settings of these names have come to.
    pub fn chosen(&self, names: &[String]) -> Parameters {
        let mut chosen = Parameters::default();
        for name in names {
            let value = self.reported.get(name).or(self.unreported.get(name));
            if let Some(value) = value {
                chosen.set(name, value);
            }
        }
        chosen
    }
}

impl Pool {
    /// What PostgreSQL reports on a fresh connection; `None` before the first.
    pub fn reported(&self) -> Option<Arc<Parameters>> {
        self.lock().reported.clone()
    }

    /// What these startup settings come to, if that is known.
    pub fn known_effect(&self, settings: &Settings) -> Option<Effect> {
        self.lock().known.get(settings).cloned()
    }

    /// Remembers what startup settings come to.
    pub fn learn_effect(&self, settings: Settings, effect: Effect) {
        let mut state = self.lock();
        if state.known.len() >= KNOWN_SETTINGS {
            state.known.clear();
        }
        state.known.insert(settings, effect);
    }

    /// The one copy of these parameters that all sessions of the pool share, so that a comparison of what
    /// is set with what is wanted is mostly one of two addresses.
    pub fn share(&self, parameters: Arc<Parameters>) -> Arc<Parameters> {
        let mut state = self.lock();
        if let Some(shared) = state.shared.get(&parameters) {
            return Arc::clone(shared);
        }
        if state.shared.len() >= KNOWN_SETTINGS {
            state.shared.clear();
        }
        state.shared.insert(Arc::clone(&parameters));
        parameters
    }
}
