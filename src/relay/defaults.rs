//! Settings that the client has not set. They have the defaults of the server connection, and the client gets them
//! as ParameterStatus.
//!
//! Invariant: a default is never set, only reset to. So a change by an administrator, and the end of a recovery,
//! reach every client. PostgreSQL's reports behind a reset, or before the client's first request, are its defaults.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::server::backend::Backend;
use crate::server::parameters::Parameters;

/// A server connection is being set up for its client.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SettingUp {
    /// What PostgreSQL reported when it came.
    pub before: Arc<Parameters>,
    /// The names of settings that are set for the client.
    pub set: Vec<String>,
    /// The names of those that are reset.
    pub reset: Vec<String>,
}

impl Session {
    /// Whether the client has chosen the setting, at startup or since.
    fn is_own(&self, name: &str) -> bool {
        self.startup_settings.get(name).is_some()
            || self.reported_to_client.get(name) != self.defaults.get(name)
    }

    /// What is to be done on the connection about a setting that differs from what was reported to the client: it is
    /// set to that, it is reset, or nothing, since it is at its default.
    pub(super) fn to_set_up<'a>(
        &self,
        name: &'a str,
        value: &'a [u8],
        backend: &Backend,
    ) -> Option<(&'a str, Option<&'a [u8]>)> {
        if self.is_own(name) {
            Some((name, Some(value)))
        } else if backend.reported.get(name) == backend.fresh.get(name) {
            None
        } else {
            Some((name, None))
        }
    }

    /// The connection is being set up. To be called before PostgreSQL has answered any of it.
    pub(super) fn setting_up(&mut self) -> Option<&mut SettingUp> {
        let link = self.link.as_mut()?;
        let before = &link.backend.reported;
        let begin = || {
            Box::new(SettingUp {
                before: Arc::clone(before),
                ..SettingUp::default()
            })
        };
        Some(link.setting_up.get_or_insert_with(begin))
    }

    /// Notes what is being set up.
    pub(super) fn note_setting_up(&mut self, done: &[(&str, Option<&[u8]>)]) {
        if done.is_empty() {
            return;
        }
        let Some(setting_up) = self.setting_up() else {
            return;
        };
        for (name, value) in done {
            let names = match value {
                Some(_) => &mut setting_up.set,
                None => &mut setting_up.reset,
            };
            names.push((*name).to_owned());
        }
    }

    /// The connection is set up: takes up what PostgreSQL has said of its defaults meanwhile, and goes by them from
    /// now on. To be called before the client gets the report.
    pub(super) fn take_up_defaults(&mut self) {
        let Some(link) = &mut self.link else { return };
        let backend = &mut link.backend;
        if let Some(done) = link.setting_up.take() {
            let reported = Arc::clone(&backend.reported);
            if !Arc::ptr_eq(&done.before, &reported) || !done.reset.is_empty() {
                let is_set =
                    |name: &&str| done.set.iter().any(|set| set.eq_ignore_ascii_case(name));
                let changed = reported.differing_from(&done.before);
                let changed = changed.map(|(name, _)| name).filter(|name| !is_set(name));
                backend.note_defaults(changed.chain(done.reset.iter().map(String::as_str)));
            }
        }
        let fresh = Arc::clone(&backend.fresh);
        if Arc::ptr_eq(&fresh, &self.defaults) {
            return;
        }
        if self.defaults == fresh {
            self.defaults = fresh;
            return;
        }
        let mut defaults = (*fresh).clone();
        for (name, before) in self.defaults.iter() {
            // By this it is known to be its own.
            if self.reported_to_client.get(name) != Some(before) {
                defaults.set(name, before);
            }
        }
        self.defaults = Arc::new(defaults);
    }

    /// The settings of its startup packet, which were reported as it had sent them, are in effect: they are what
    /// PostgreSQL makes of them.
    pub(super) fn take_up_as_sent(&mut self) {
        if !std::mem::take(&mut self.as_sent) {
            return;
        }
        let mut startup_settings = (*self.startup_settings).clone();
        for (name, value) in self.startup_settings.iter() {
            startup_settings.set(name, self.reported_to_client.get(name).unwrap_or(value));
        }
        self.startup_settings = Arc::new(startup_settings);
    }
}
