//! A client proves who it is: the messages of MD5 and SCRAM between it and the challenge it was given.
//!
//! What the challenge is, and whether any answer can be right, was decided in [`auth`]. A
//! client that fails reads one sentence whatever the reason; the log reads the reason.

use super::login::Login;
use super::login_error::{LoginError, say};
use crate::auth::challenge::Challenge;
use crate::auth::{self, ClientKey, Mechanism, Outcome, ServerExchange, Verifier};
use crate::net::exchange::Exchange;
use crate::server::messages;
use crate::wire::frame::c_string;
use crate::wire::{backend, frontend, sqlstate};

/// The longest password message, in bytes.
const MAX_PASSWORD: usize = 64 * 1024;

impl Login<'_> {
    /// Lets the client prove who it is, and says it is in. Returns the key it proved to have, if the
    /// method shows one. After a wrong password `look_again` says whether another one is stored meanwhile. SCRAM
    /// cannot use that, because the client has used the salt of the old one.
    pub(super) fn prove(
        &self,
        wire: &mut Exchange<'_>,
        user: &str,
        challenge: Challenge,
        will_fail: Option<String>,
        look_again: &dyn Fn() -> Option<Verifier>,
    ) -> Result<Option<ClientKey>, LoginError> {
        let doomed = |otherwise: &str| refused(user, will_fail.as_deref().unwrap_or(otherwise));
        let mut answer = Vec::new();
        let key = match challenge {
            Challenge::Nothing => None,
            Challenge::Md5(challenge) => {
                backend::authentication_md5(&mut answer, challenge.salt());
                wire.send(&answer)?;
                let response = self.password_message(wire)?;
                let response = response.strip_suffix(b"\0").unwrap_or(&response);
                let right = challenge.check(response).unwrap_or(false);
                let is_new = || match look_again() {
                    Some(Verifier::Md5(new)) => {
                        auth::md5::check(&new, challenge.salt(), response).unwrap_or(false)
                    }
                    Some(Verifier::Scram(_) | Verifier::None) | None => false,
                };
                if !right && !is_new() {
                    return Err(doomed("the password is wrong"));
                }
                None
            }
            Challenge::Scram(exchange) => {
                let outcome = self.scram(wire, user, *exchange)?;
                let Outcome::Proven {
                    server_final,
                    client_key,
                } = outcome
                else {
                    look_again();
                    return Err(doomed("the password is wrong"));
                };
                backend::authentication_sasl_final(&mut answer, &server_final);
                wire.send(&answer)?;
                Some(client_key)
            }
        };
        self.accept(wire)?;
        Ok(key)
    }

    /// Says that the client is in.
    pub(super) fn accept(&self, wire: &mut Exchange<'_>) -> Result<(), LoginError> {
        let mut answer = Vec::new();
        backend::authentication_ok(&mut answer);
        Ok(wire.send(&answer)?)
    }

    pub(super) fn password_message(&self, wire: &mut Exchange<'_>) -> Result<Vec<u8>, LoginError> {
        self.permit.waits();
        let message = messages::next(wire, MAX_PASSWORD)?;
        self.permit.heard();
        match message.kind {
            frontend::PASSWORD => Ok(message.body),
            frontend::TERMINATE => Err(LoginError::Silent("it left during login".into())),
            other => Err(say(
                sqlstate::PROTOCOL_VIOLATION,
                format!(
                    "expected a password, got a message of type \"{}\"",
                    other.escape_ascii()
                ),
            )),
        }
    }

    fn scram(
        &self,
        wire: &mut Exchange<'_>,
        user: &str,
        mut exchange: ServerExchange,
    ) -> Result<Outcome, LoginError> {
        let mut answer = Vec::new();
        if let Some(channel_binding) = &self.channel_binding {
            exchange.offer_binding(channel_binding.clone());
        }
        let mechanisms = exchange.mechanisms();
        backend::authentication_sasl(&mut answer, mechanisms);
        wire.send(&std::mem::take(&mut answer))?;
        let first = self.password_message(wire)?;
        let malformed = || {
            say(
                sqlstate::PROTOCOL_VIOLATION,
                "malformed SASLInitialResponse message",
            )
        };
        let (mechanism, rest) = c_string(&first).ok_or_else(malformed)?;
        let mechanism = Mechanism::named(mechanism)
            .filter(|mechanism| mechanisms.contains(&mechanism.name()))
            .ok_or_else(|| {
                say(
                    sqlstate::PROTOCOL_VIOLATION,
                    "client selected an invalid SASL authentication mechanism",
                )
            })?;
        let (length, data) = crate::wire::frame::int32(rest).ok_or_else(malformed)?;
        let asked;
        let data = if length == -1 && data.is_empty() {
            // Without an initial response the client begins after an empty challenge (RFC 4422, section 3.3).
            backend::authentication_sasl_continue(&mut answer, b"");
            wire.send(&std::mem::take(&mut answer))?;
            asked = self.password_message(wire)?;
            &asked[..]
        } else if usize::try_from(length) == Ok(data.len()) {
            data
        } else {
            return Err(malformed());
        };
        let failed = |error: auth::ScramError| match error.words() {
            Some(message) => LoginError::Message {
                code: sqlstate::INVALID_AUTHORIZATION,
                message: message.into(),
                log: format!("login of user \"{user}\": {error}"),
            },
            None => refused(user, &error.to_string()),
        };
        let server_first = exchange.client_first(mechanism, data).map_err(failed)?;
        answer.clear();
        backend::authentication_sasl_continue(&mut answer, &server_first);
        wire.send(&answer)?;
        let last = self.password_message(wire)?;
        exchange.client_final(&last).map_err(failed)
    }
}

/// The refusal of a login: one sentence for the client, the reason for the log.
pub(super) fn refused(user: &str, why: &str) -> LoginError {
    let message = auth::refusal(user);
    LoginError::Message {
        code: sqlstate::INVALID_PASSWORD,
        log: format!("{message}: {why}"),
        message,
    }
}
