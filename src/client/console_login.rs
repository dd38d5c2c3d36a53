//! Logins to the console: by the password of `admin_username` or of `stats_username`, by SCRAM if possible. A rule for
//! applications never lets anybody in.
//!
//! `auth::hba::console_verdict` says which rule counts for the console. Invariant: another user gets in only by a rule
//! that names the console and asks for no password.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::login::{LoggedIn, LoggedInTo, Login, random_secret};
use super::login_error::{LoginError, say};
use crate::auth::challenge::Kind;
use crate::auth::crypto::CryptoError;
use crate::auth::{self, MockSecret, ScramVerifier, Verifier};
use crate::config::{FilePassword, General, Password, Secret};
use crate::net::exchange::Exchange;
use crate::server::parameters::Parameters;
use crate::session::console::Rights;
use crate::session::registry::ClientInfo;
use crate::wire::sqlstate;
use crate::wire::startup::Startup;

/// SCRAM verifiers of the console's passwords, which the configuration has in plain text. Each is computed
/// once: that takes a millisecond, by which a stranger could find out the names of the console's users.
#[derive(Debug, Default)]
pub struct ConsoleVerifiers {
    known: Mutex<HashMap<String, (Secret, Arc<ScramVerifier>)>>,
}

impl ConsoleVerifiers {
    /// What is stored of the password `text` of `user`: a verifier or a hash if the text is one, as in the
    /// password of a pool's user, else a verifier of it as plain text.
    pub(super) fn of(
        &self,
        user: &str,
        text: &Secret,
        mock: &MockSecret,
    ) -> Result<Verifier, CryptoError> {
        match Password::parse(text.expose()) {
            Ok(stored @ (Password::Empty | Password::Md5(_) | Password::Scram(_))) => {
                return Ok(Verifier::from(&stored));
            }
            Ok(Password::Jwt(_)) | Err(_) => {}
        }
        let known = self.known.lock().get(user).cloned();
        if let Some((_, verifier)) = known.filter(|(of, _)| of == text) {
            return Ok(Verifier::Scram((*verifier).clone()));
        }
        let verifier = ScramVerifier::of_password(text.expose(), user, mock)?;
        let entry = (text.clone(), Arc::new(verifier.clone()));
        self.known.lock().insert(user.to_owned(), entry);
        Ok(Verifier::Scram(verifier))
    }
}

/// A user of the console: its name, what it may do, and what it has to prove.
type ConsoleUser<'a> = (&'a str, Rights, Verifier);

impl ConsoleVerifiers {
    /// The users of the console. Each login looks at all of them, so that the time it takes does not depend on the
    /// user.
    fn all<'a>(
        &self,
        general: &'a General,
        mock: &MockSecret,
    ) -> Result<Vec<ConsoleUser<'a>>, CryptoError> {
        let admin = (&general.admin_username, &general.admin_password);
        let mut users = vec![(
            &**admin.0,
            Rights::Everything,
            self.of(admin.0, admin.1, mock)?,
        )];
        if let (Some(name), Some(password)) = (&general.stats_username, &general.stats_password) {
            users.push((name, Rights::Show, self.of(name, password, mock)?));
        }
        Ok(users)
    }

    /// Computes the verifiers of the users of `auth_file` whose passwords are there in plain text.
    pub(super) fn prepare_file(&self, general: &General, mock: &MockSecret) {
        for (name, password) in general.file_users.iter() {
            if let FilePassword::Plain(text) = password {
                if let Err(error) = self.of(name, text, mock) {
                    log::warn!("\"{name}\" of auth_file cannot log in: {error}");
                }
            }
        }
    }

    /// Computes the verifiers before the first login, which would otherwise take noticeably longer.
    pub(super) fn prepare(&self, general: &General, mock: &MockSecret) {
        if let Err(error) = self.all(general, mock) {
            log::warn!("nobody can log in to the console by a password: {error}");
        }
    }
}

impl Login<'_> {
    pub(super) fn console(
        &self,
        exchange: &mut Exchange<'_>,
        startup: Startup,
    ) -> Result<LoggedIn, LoginError> {
        let verdict = self.verdict(&startup, exchange)?;
        let rights = self.prove_at_console(exchange, &startup.user, &verdict)?;
        let client_permit = self.admit(true)?;
        let secret = random_secret(startup.secret_length())?;
        let parameters = parameters(&startup);
        let entry = self.enter(ClientInfo {
            id: self.id,
            secret,
            database: startup.database,
            user: startup.user,
            application_name: parameters
                .get("application_name")
                .unwrap_or_default()
                .to_vec(),
            address: self.address.clone(),
            connected_at: self.connected_at,
            console: true,
            tls: self.tls.clone(),
        });
        self.greet(exchange, entry.handle(), &parameters)?;
        Ok(LoggedIn {
            entry,
            client_permit,
            at: LoggedInTo::Console(rights),
        })
    }

    /// Lets the client prove that it is one of the console's two users.
    fn prove_at_console(
        &self,
        exchange: &mut Exchange<'_>,
        user: &str,
        verdict: &auth::hba::Verdict,
    ) -> Result<Rights, LoginError> {
        let general = &self.settings.general;
        let failed = |error: CryptoError| say(sqlstate::INTERNAL_ERROR, error.to_string());
        let users = self
            .client_threads
            .console_verifiers
            .all(general, &self.shared.mock)
            .map_err(failed)?;
        let found = users.iter().find(|(name, ..)| *name == user);
        let verifier = found.map(|(_, _, verifier)| verifier);
        let rights = found.map_or(Rights::Everything, |(_, rights, _)| *rights);
        let kinds = users
            .iter()
            .filter_map(|(_, _, verifier)| Kind::of(verifier));
        let login = auth::login(verdict, user, verifier, kinds, &self.shared.mock)
            .map_err(failed)?
            .ok_or_else(|| super::authenticate::refused(user, "no rule lets it in"))?;
        let why = login.will_fail.map(|will_fail| match will_fail {
            auth::LoginFailure::UnknownUser => {
                "it is neither admin_username nor stats_username".to_owned()
            }
            other => other.to_string(),
        });
        self.prove(exchange, user, login.challenge, why, &|| None)?;
        Ok(rights)
    }
}

/// ParameterStatus for a client of the console.
fn parameters(startup: &Startup) -> Parameters {
    let mut settings = startup.settings.iter();
    let name = settings
        .find(|(name, _)| name == "application_name")
        .map_or(&b"pg_doorman"[..], |(_, value)| value);
    let mut parameters = Parameters::default();
    parameters.set("application_name", name);
    for (key, value) in [
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("server_encoding", "UTF8"),
        ("server_version", env!("CARGO_PKG_VERSION")),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "Etc/UTC"),
    ] {
        parameters.set(key, value.as_bytes());
    }
    parameters
}
