//! A client logs in to the console: by the password of the administrator or of the one who may only look,
//! as SCRAM where it can be, and never because a rule for applications lets it in.
//!
//! Which rule counts for the console is said by [`hba::console_verdict`]. Invariant: a user other than these
//! two gets in only by a rule that names the console and asks for no password.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::console::Rights;
use super::login::{Arrived, LoggedInTo, Login, random_secret};
use super::refusal::{Refusal, say};
use super::registry::Identity;
use crate::auth::challenge::StandIn;
use crate::auth::crypto::CryptoError;
use crate::auth::{self, MockSecret, ScramVerifier, Verifier};
use crate::config::{Password, Secret};
use crate::net::dialogue::Dialogue;
use crate::server::parameters::Parameters;
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
    fn of(&self, user: &str, text: &Secret, mock: &MockSecret) -> Result<Verifier, CryptoError> {
        match Password::parse(text.expose()) {
            Ok(stored @ (Password::Empty | Password::Md5(_) | Password::Scram(_))) => {
                return Ok(Verifier::from(&stored));
            }
            Ok(Password::Jwt) | Err(_) => {}
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

impl Login<'_> {
    pub(super) fn console(
        &self,
        dialogue: &mut Dialogue<'_>,
        startup: Startup,
    ) -> Result<Arrived, Refusal> {
        let verdict = self.verdict(&startup)?;
        let rights = self.prove_at_console(dialogue, &startup.user, &verdict)?;
        let place = self.admit(true)?;
        let secret = random_secret(startup.secret_length())?;
        let parameters = parameters(&startup);
        let entry = self.enter(Identity {
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
        self.greet(dialogue, entry.handle(), &parameters)?;
        Ok(Arrived {
            entry,
            place,
            at: LoggedInTo::Console(rights),
        })
    }

    /// Lets the client prove that it is one of the console's two users.
    fn prove_at_console(
        &self,
        dialogue: &mut Dialogue<'_>,
        user: &str,
        verdict: &auth::hba::Verdict,
    ) -> Result<Rights, Refusal> {
        let general = &self.settings.general;
        let failed = |error: CryptoError| say(sqlstate::INTERNAL_ERROR, error.to_string());
        let is_looker = general.stats_username.as_deref() == Some(user);
        let (rights, text) = if user == general.admin_username {
            (Rights::Everything, Some(&general.admin_password))
        } else if is_looker {
            (Rights::Show, general.stats_password.as_ref())
        } else {
            (Rights::Everything, None)
        };
        let console = &self.house.console_verifiers;
        let verifier = text
            .map(|text| console.of(user, text, &self.house.mock))
            .transpose()
            .map_err(failed)?;
        let is_md5 = matches!(
            Password::parse(general.admin_password.expose()),
            Ok(Password::Md5(_))
        );
        let stand_in = if is_md5 { StandIn::Md5 } else { StandIn::Scram };
        let login = auth::login(verdict, user, verifier.as_ref(), stand_in, &self.house.mock)
            .map_err(failed)?
            .ok_or_else(|| super::authenticate::refused(user, "no rule lets it in"))?;
        let why = login.doom.map(|doom| match doom {
            auth::Doom::UnknownUser => "it is neither admin_username nor stats_username".to_owned(),
            other => other.to_string(),
        });
        self.prove(dialogue, user, login.challenge, why)?;
        Ok(rights)
    }
}

/// What a client of the console is told of parameters.
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
