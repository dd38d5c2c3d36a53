//! A client proves who it is: the messages of MD5 and SCRAM between it and the challenge it was given.
//!
//! What the challenge is, and whether any answer can be right, was decided in [`auth`]. A
//! client that fails reads one sentence whatever the reason; the log reads the reason.

use super::login::Login;
use super::refusal::{Refusal, say};
use crate::auth::challenge::Challenge;
use crate::auth::{self, ClientKey, Mechanism, Outcome, ServerExchange};
use crate::net::dialogue::Dialogue;
use crate::server::messages;
use crate::wire::frame::c_string;
use crate::wire::{backend, frontend, sqlstate};

/// The longest password message, in bytes.
const LONGEST_PASSWORD: usize = 64 * 1024;

impl Login<'_> {
    /// Lets the client prove who it is, and says it is in. Returns the key it proved to have, if the
    /// method shows one.
    pub(super) fn prove(
        &self,
        dialogue: &mut Dialogue<'_>,
        user: &str,
        challenge: Challenge,
        doom: Option<String>,
    ) -> Result<Option<ClientKey>, Refusal> {
        let doomed = |otherwise: &str| refused(user, doom.as_deref().unwrap_or(otherwise));
        let mut answer = Vec::new();
        let key = match challenge {
            Challenge::Nothing => None,
            Challenge::Md5(challenge) => {
                backend::authentication_md5(&mut answer, challenge.salt());
                dialogue.send(&answer)?;
                let response = self.password_message(dialogue)?;
                let response = response.strip_suffix(b"\0").unwrap_or(&response);
                let right = challenge.check(response).unwrap_or(false);
                if !right {
                    return Err(doomed("the password is wrong"));
                }
                None
            }
            Challenge::Scram(exchange) => {
                let outcome = self.scram(dialogue, user, *exchange)?;
                let Outcome::Proven {
                    server_final,
                    client_key,
                } = outcome
                else {
                    return Err(doomed("the password is wrong"));
                };
                backend::authentication_sasl_final(&mut answer, &server_final);
                dialogue.send(&answer)?;
                Some(client_key)
            }
        };
        answer.clear();
        backend::authentication_ok(&mut answer);
        dialogue.send(&answer)?;
        Ok(key)
    }

    fn password_message(&self, dialogue: &mut Dialogue<'_>) -> Result<Vec<u8>, Refusal> {
        self.permit.waits();
        let message = messages::next(dialogue, LONGEST_PASSWORD)?;
        self.permit.heard();
        match message.kind {
            frontend::PASSWORD => Ok(message.body),
            frontend::TERMINATE => Err(Refusal::Silent("it left during login".into())),
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
        dialogue: &mut Dialogue<'_>,
        user: &str,
        mut exchange: ServerExchange,
    ) -> Result<Outcome, Refusal> {
        let mut answer = Vec::new();
        if let Some(end_point) = &self.end_point {
            exchange.offer_binding(end_point.clone());
        }
        let mechanisms = exchange.mechanisms();
        backend::authentication_sasl(&mut answer, mechanisms);
        dialogue.send(&std::mem::take(&mut answer))?;
        let first = self.password_message(dialogue)?;
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
            dialogue.send(&std::mem::take(&mut answer))?;
            asked = self.password_message(dialogue)?;
            &asked[..]
        } else if usize::try_from(length) == Ok(data.len()) {
            data
        } else {
            return Err(malformed());
        };
        let failed = |error: auth::ScramError| match error.words() {
            Some(words) => Refusal::Words {
                code: sqlstate::INVALID_AUTHORIZATION,
                words: words.into(),
                log: format!("login of user \"{user}\": {error}"),
            },
            None => refused(user, &error.to_string()),
        };
        let server_first = exchange.client_first(mechanism, data).map_err(failed)?;
        answer.clear();
        backend::authentication_sasl_continue(&mut answer, &server_first);
        dialogue.send(&answer)?;
        let last = self.password_message(dialogue)?;
        exchange.client_final(&last).map_err(failed)
    }
}

/// The refusal of a login: one sentence for the client, the reason for the log.
pub(super) fn refused(user: &str, why: &str) -> Refusal {
    let words = auth::refusal(user);
    Refusal::Words {
        code: sqlstate::INVALID_PASSWORD,
        log: format!("{words}: {why}"),
        words,
    }
}
