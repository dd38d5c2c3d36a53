//! What a login knows of its user: from the configuration, or by `auth_query`; and the pool that it leads to.
//!
//! Asks the client nothing; that is `authenticate`'s. Invariant: a pool that the configuration does not name is made
//! only for a client that has proved who it is, or of which the rules demand no proof.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use super::authenticate::refused;
use super::client_settings::StartupSettingsError;
use super::login::Login;
use super::login_error::{LoginError, say};
use crate::auth::Verifier;
use crate::auth::challenge::Kind;
use crate::auth::crypto::CryptoError;
use crate::config::{
    FilePassword, FileUsers, Password, Pool as Configured, TokenKey, User as ConfiguredUser,
};
use crate::net::clock::MonotonicTime;
use crate::pool::pool::Pool;
use crate::pool::pool_config::{Login as ServerLogin, Origin};
use crate::pool::pool_configs;
use crate::server::login::ConnectError;
use crate::session::checkout::CheckoutError;
use crate::session::shared::Shared;
use crate::session::user_lookup::{Found, Unavailable, UserLookup, count};
use crate::wire::sqlstate;
use crate::wire::startup::Startup;

/// What is known of a user that logs in.
pub(super) struct KnownUser<'a> {
    shared: &'a Shared,
    user: &'a str,
    deadline: Option<MonotonicTime>,
    /// What the configuration says of the user.
    configured: Option<Cow<'a, ConfiguredUser>>,
    /// What checks the user's password, if `auth_file` has it in plain text.
    of_plain_text: Option<Verifier>,
    /// Who looks for users that are not in the configuration.
    lookup: Option<Arc<UserLookup>>,
    /// What it has found, the last time it was asked.
    found: RefCell<Option<Found>>,
    /// How users of the pool are asked for their passwords.
    pub(super) kinds: Vec<Kind>,
}

impl Login<'_> {
    /// What is known of the user. A user of the configuration is looked for nowhere else.
    pub(super) fn known_user<'a>(
        &'a self,
        pool: &'a Configured,
        user: &'a str,
        deadline: Option<MonotonicTime>,
    ) -> Result<KnownUser<'a>, LoginError> {
        let failed = |error: CryptoError| say(sqlstate::INTERNAL_ERROR, error.to_string());
        let file_users = &self.settings.general.file_users;
        let of_plain_text = match file_users.get(user) {
            Some(FilePassword::Plain(text)) if pool.user(user).is_none() => {
                let verifiers = &self.client_threads.file_verifiers;
                Some(
                    verifiers
                        .of(user, text, &self.shared.mock)
                        .map_err(failed)?,
                )
            }
            _ => None,
        };
        let of_file = || pool_configs::file_user(self.settings, pool, user).map(Cow::Owned);
        let configured = pool.user(user).map(Cow::Borrowed).or_else(of_file);
        let kinds = pool.users.iter();
        let mut known = KnownUser {
            shared: self.shared,
            user,
            deadline,
            configured,
            of_plain_text,
            lookup: self.shared.lookups.of(&pool.name),
            found: RefCell::default(),
            kinds: kinds
                .filter_map(|user| Kind::of_password(&user.password))
                .collect(),
        };
        known.kinds.extend(kinds_of_file(file_users));
        if let Some(lookup) = &known.lookup {
            known.kinds.extend(lookup.kinds_for(user).iter().copied());
            if known.configured.is_none() {
                let found = lookup.find(user, deadline, &|| self.shared.ends_logins());
                let unavailable = |why: Unavailable| LoginError::Message {
                    code: sqlstate::SYSTEM_ERROR,
                    message: "Authentication service unavailable. Please try again later.".into(),
                    log: format!("auth_query of pool \"{}\": {}", pool.name, why.0),
                };
                known.found = RefCell::new(Some(found.map_err(unavailable)?));
            }
        }
        Ok(known)
    }

    /// The pool of a client that has proved who it is.
    pub(super) fn pool_of(
        &self,
        startup: &Startup,
        known: &KnownUser<'_>,
    ) -> Result<Arc<Pool>, LoginError> {
        let (database, user) = (&startup.database, &startup.user);
        let verifier = known.verifier();
        let nobody = || refused(user, "there is no such user");
        loop {
            let settings = self.shared.settings();
            let found = pool_configs::found(&settings, database, user, verifier.as_ref());
            let Some((key, config)) = found else {
                return self.shared.pools.find(database, user).ok_or_else(nobody);
            };
            if verifier.is_none() {
                return Err(nobody());
            }
            let most = settings.general.autodb_max_databases;
            let pool = self.shared.pools.ensure(&key, config, most).map_err(|_| {
                say(
                    sqlstate::TOO_MANY_CONNECTIONS,
                    "sorry, too many databases already (autodb_max_databases)",
                )
            })?;
            // A reload in between did not know of this pool.
            if Arc::ptr_eq(&settings, &self.shared.settings()) {
                return Ok(pool);
            }
        }
    }
}

/// How users of the file are asked for their passwords, each way once.
fn kinds_of_file(users: &FileUsers) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for password in users.values() {
        let kind = match password {
            FilePassword::Stored(password) => Kind::of_password(password),
            FilePassword::Plain(_) => Some(Kind::OF_PLAIN_TEXT),
        };
        if let Some(kind) = kind.filter(|kind| !kinds.contains(kind)) {
            kinds.push(kind);
        }
    }
    kinds
}

impl KnownUser<'_> {
    /// What is stored of the password; `None` if there is no such user.
    pub(super) fn verifier(&self) -> Option<Verifier> {
        if self.of_plain_text.is_some() {
            return self.of_plain_text.clone();
        }
        if let Some(user) = &self.configured {
            return Some(Verifier::from(&user.password));
        }
        let found = self.found.borrow();
        found
            .as_ref()
            .and_then(|found| found.answer.verifier.clone())
    }

    /// The key that checks the user's tokens, if it has to send one.
    pub(super) fn token_key(&self) -> Option<&TokenKey> {
        match &self.configured.as_ref()?.password {
            Password::Jwt(key) => Some(key),
            Password::Empty | Password::Md5(_) | Password::Scram(_) => None,
        }
    }

    /// The client has failed to prove that it knows the password. Whether it was changed in PostgreSQL is looked up,
    /// unless that was done a moment ago. Returns the new one.
    pub(super) fn look_again(&self) -> Option<Verifier> {
        let before = self.found.borrow().clone()?;
        let lookup = self.lookup.as_ref()?;
        if !before.remembered {
            return None;
        }
        let told = || self.shared.ends_logins();
        match lookup.find_again(self.user, &before.answer, self.deadline, &told) {
            Ok(answer) => {
                let answer = answer?;
                let verifier = answer.verifier.clone();
                *self.found.borrow_mut() = Some(Found {
                    answer,
                    remembered: false,
                });
                verifier
            }
            Err(why) => {
                log::warn!(
                    "auth_query after a failed login of \"{}\": {}",
                    self.user,
                    why.0
                );
                None
            }
        }
    }

    /// Counts the login.
    pub(super) fn note_outcome(&self, succeeded: bool) {
        if let (Some(lookup), None) = (&self.lookup, &self.configured) {
            count(match succeeded {
                true => &lookup.counts.successes,
                false => &lookup.counts.failures,
            });
        }
    }

    /// The client has proved who it is, and there is no server connection for it. If the pooler uses the client's own
    /// proof, PostgreSQL's refusal is meant for the client.
    pub(super) fn not_connected(&self, why: StartupSettingsError, pool: Arc<Pool>) -> LoginError {
        let config = pool.config();
        let passes_through = matches!(config.login, ServerLogin::PassThrough { .. });
        if config.origin == Origin::Configured {
            return why.into();
        }
        self.shared.pools.discard(pool);
        let StartupSettingsError::CheckoutError(CheckoutError::Failed(error)) = &why else {
            return why.into();
        };
        match &**error {
            ConnectError::Refused(fields) if !error.can_heal() => {
                let of_role = fields.code.starts_with("28");
                if of_role && passes_through {
                    self.forget();
                }
                if of_role && !passes_through {
                    return why.into();
                }
                LoginError::Forwarded(fields.clone())
            }
            ConnectError::Credentials(words) if passes_through => {
                log::warn!(
                    "[{}@{}] the pooler cannot log in to PostgreSQL with what the client proved: {words}",
                    self.user,
                    config.server_database
                );
                self.forget();
                why.into()
            }
            _ => why.into(),
        }
    }

    fn forget(&self) {
        if let Some(lookup) = &self.lookup {
            lookup.forget(self.user);
        }
    }
}
