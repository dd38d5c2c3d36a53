//! What startup settings come to on a pool's servers: asked of PostgreSQL once and remembered.

use std::sync::Arc;
use std::time::Duration;

use super::pool::Pool;
use super::state::State;
use crate::net::clock::MonotonicTime;
use crate::server::backend::{Backend, Connection};
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
    pub untracked: Arc<Parameters>,
    /// What PostgreSQL reports without these settings.
    pub defaults: Arc<Parameters>,
    /// PostgreSQL has not been asked: the values are as they were sent.
    pub as_sent: bool,
}

impl Effect {
    /// The values that the settings of these names have come to.
    pub fn startup_settings(&self, names: &[String]) -> Parameters {
        let mut startup_settings = Parameters::default();
        for name in names {
            let value = self.reported.get(name).or(self.untracked.get(name));
            if let Some(value) = value {
                startup_settings.set(name, value);
            }
        }
        startup_settings
    }
}

/// How old what is known of PostgreSQL's defaults may be without being asked for again.
const OLD: Duration = Duration::from_secs(1);

impl State {
    /// The known defaults of PostgreSQL are reported to no client before PostgreSQL has reported them again.
    pub(super) fn forget_defaults(&mut self) {
        self.confirmed = None;
        self.known.clear();
    }

    /// Takes up the defaults that PostgreSQL has reported on a connection that has come back.
    pub(super) fn take_news(&mut self, backend: &mut Backend, now: MonotonicTime) {
        let Some(news) = backend.news.take() else {
            return;
        };
        if backend.epoch != self.epoch || self.confirmed.is_none() {
            return;
        }
        self.confirmed = Some(now);
        let Some(reported) = &mut self.reported else {
            return;
        };
        for name in news {
            let Some(value) = backend.fresh.get(&name) else {
                continue;
            };
            if reported.get(&name) != Some(value) {
                Arc::make_mut(reported).set(&name, value);
                self.known.clear();
            }
        }
    }
}

impl Pool {
    /// What PostgreSQL reports on a fresh connection, as far as is known.
    pub fn reported(&self) -> Option<Arc<Parameters>> {
        self.lock().reported.clone()
    }

    /// What PostgreSQL reports on a fresh connection, if it may be reported to a client that logs in.
    pub fn defaults(&self) -> Option<Arc<Parameters>> {
        let state = self.lock();
        state.confirmed.and(state.reported.clone())
    }

    /// Whether PostgreSQL should be asked again before a client gets its defaults.
    pub fn defaults_are_old(&self) -> bool {
        let state = self.lock();
        state
            .confirmed
            .is_some_and(|confirmed| confirmed.elapsed() > OLD)
    }

    /// Whether no connection will be made for one who waits: all there may be are there, or the pool is paused.
    pub fn is_full(&self) -> bool {
        let state = self.lock();
        let there = state.in_use + state.idle.len() + state.coming.len();
        state.paused || there >= state.config.size
    }

    /// Takes an idle connection, if there is one and no client waits.
    pub fn check_out_idle(&self) -> Option<Connection> {
        self.lock().check_out_idle_if_first(0)
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
