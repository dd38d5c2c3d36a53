//! The client's party: we log in to PostgreSQL (RFC 5802, section 5), by a
//! password or by the keys a client proved to us before.
//!
//! It gives the data of SASLInitialResponse and SASLResponse and takes that of
//! AuthenticationSASLContinue and AuthenticationSASLFinal. Which mechanism goes
//! with it is for [`Binding::mechanism`] to say. Invariant: it has succeeded
//! only when [`finish`](ClientExchange::finish) says so, which is when the
//! server has proven itself too.

use std::{fmt, mem};

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use serde::{Deserialize, Serialize};

use super::super::crypto::{self, CryptoError};
use super::super::keys::{ClientKey, Password, ServerKey};
use super::binding::Binding;
use super::message::{ServerFinal, ServerFirst};
use super::{MAX_MESSAGE_LENGTH, ScramError, auth_message, nonce};
use crate::wire::base64;

/// What the pooler keeps of a client's login by SCRAM to log in to PostgreSQL
/// as that user: it needs the password no more. It fits a PostgreSQL that
/// stores the same verifier (password, salt and iteration count), and only
/// that. Made by
/// [`ScramVerifier::pass_through`](crate::auth::ScramVerifier::pass_through).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassThrough {
    /// Proves us to the server.
    pub client_key: ClientKey,
    /// Proves the server to us.
    pub server_key: ServerKey,
    /// The verifier's iteration count.
    pub iterations: u32,
    /// The verifier's salt, as bytes.
    pub salt: Vec<u8>,
}

/// One login of the pooler to PostgreSQL by SCRAM-SHA-256.
pub struct ClientExchange(Way);

enum Way {
    WithPassword {
        exchange: ScramSha256,
        step: Step,
    },
    WithKeys {
        keys: PassThrough,
        binding: Binding,
        state: KeysState,
    },
}

/// Where an exchange by password stands. The library panics when asked for a
/// message out of order, so it is never asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Start,
    FirstSent,
    FinalSent,
    Over,
}

enum KeysState {
    Start { nonce: String },
    FirstSent { nonce: String },
    FinalSent { signed: Vec<u8> },
    Over,
}

impl ClientExchange {
    /// A login by password. The password is normalised by SASLprep where that
    /// is possible, as PostgreSQL does.
    ///
    /// A server that demands more than 100 000 iterations is refused: they
    /// are our time, and it could demand any number of them.
    pub fn with_password(password: &Password, binding: Binding) -> Self {
        let binding = match binding {
            // The library's own names: it sends `n` for the first, `y` for the second.
            Binding::Impossible => ChannelBinding::unsupported(),
            Binding::NotOffered => ChannelBinding::unrequested(),
            Binding::EndPoint(hash) => ChannelBinding::tls_server_end_point(hash),
        };
        let exchange = ScramSha256::new(password.expose().as_bytes(), binding);
        ClientExchange(Way::WithPassword {
            exchange,
            step: Step::Start,
        })
    }

    /// A login by the keys a client proved.
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn with_keys(keys: PassThrough, binding: Binding) -> Result<Self, CryptoError> {
        Ok(Self::with_keys_and_nonce(keys, binding, nonce()?))
    }

    pub(super) fn with_keys_and_nonce(keys: PassThrough, binding: Binding, nonce: String) -> Self {
        let state = KeysState::Start { nonce };
        ClientExchange(Way::WithKeys {
            keys,
            binding,
            state,
        })
    }

    /// client-first-message, to be sent in SASLInitialResponse.
    ///
    /// # Errors
    /// [`ScramError::OutOfOrder`] when asked for twice.
    pub fn first(&mut self) -> Result<Vec<u8>, ScramError> {
        match &mut self.0 {
            Way::WithPassword { exchange, step } => {
                advance(step, Step::Start)?;
                *step = Step::FirstSent;
                Ok(exchange.message().to_vec())
            }
            Way::WithKeys { binding, state, .. } => match mem::replace(state, KeysState::Over) {
                KeysState::Start { nonce } => {
                    let first = format!("{}{}", binding.gs2_header(), first_bare(&nonce));
                    *state = KeysState::FirstSent { nonce };
                    Ok(first.into_bytes())
                }
                _ => Err(ScramError::OutOfOrder),
            },
        }
    }

    /// Takes server-first-message (of AuthenticationSASLContinue) and gives
    /// client-final-message, to be sent in SASLResponse.
    ///
    /// # Errors
    /// [`ScramError`]; the exchange is over then. Among them
    /// [`ScramError::SaltDiffers`] and [`ScramError::IterationsDiffer`]: the
    /// keys belong to another verifier than PostgreSQL's.
    pub fn continue_(&mut self, server_first: &[u8]) -> Result<Vec<u8>, ScramError> {
        match &mut self.0 {
            Way::WithPassword { exchange, step } => {
                advance(step, Step::FirstSent)?;
                bounded(server_first)?;
                exchange.update(server_first).map_err(with_password)?;
                *step = Step::FinalSent;
                Ok(exchange.message().to_vec())
            }
            Way::WithKeys {
                keys,
                binding,
                state,
            } => match mem::replace(state, KeysState::Over) {
                KeysState::FirstSent { nonce } => {
                    let (client_final, signed) = prove(keys, binding, &nonce, server_first)?;
                    *state = KeysState::FinalSent { signed };
                    Ok(client_final)
                }
                _ => Err(ScramError::OutOfOrder),
            },
        }
    }

    /// Takes server-final-message (of AuthenticationSASLFinal); `Ok` when the
    /// server has proven that it knows the user's verifier.
    ///
    /// # Errors
    /// [`ScramError`]; the server must not be trusted then.
    pub fn finish(&mut self, server_final: &[u8]) -> Result<(), ScramError> {
        match &mut self.0 {
            Way::WithPassword { exchange, step } => {
                advance(step, Step::FinalSent)?;
                bounded(server_final)?;
                exchange.finish(server_final).map_err(with_password)
            }
            Way::WithKeys { keys, state, .. } => match mem::replace(state, KeysState::Over) {
                KeysState::FinalSent { signed } => check_server(keys, &signed, server_final),
                _ => Err(ScramError::OutOfOrder),
            },
        }
    }
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Way::WithPassword { .. } => "ClientExchange(with a password)",
            Way::WithKeys { .. } => "ClientExchange(with keys)",
        })
    }
}

/// Leaves `expected`, for good until the caller sets the next step: whoever
/// returns with an error in between has ended the exchange.
fn advance(step: &mut Step, expected: Step) -> Result<(), ScramError> {
    if mem::replace(step, Step::Over) == expected {
        Ok(())
    } else {
        Err(ScramError::OutOfOrder)
    }
}

fn bounded(message: &[u8]) -> Result<(), ScramError> {
    if message.len() > MAX_MESSAGE_LENGTH {
        return Err(ScramError::TooLong);
    }
    Ok(())
}

fn with_password(error: std::io::Error) -> ScramError {
    ScramError::WithPassword(printable(&error.to_string()))
}

/// What a server says goes into a log line: one line, of bounded length.
fn printable(text: &str) -> String {
    text.chars()
        .take(200)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The user's name stays empty, as libpq does it: PostgreSQL takes the one of
/// the StartupMessage.
fn first_bare(nonce: &str) -> String {
    format!("n=,r={nonce}")
}

/// client-final-message, and what the server has to sign.
fn prove(
    keys: &PassThrough,
    binding: &Binding,
    our_nonce: &str,
    server_first: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), ScramError> {
    let challenge = ServerFirst::parse(server_first)?;
    // The server must have added something of its own.
    if !challenge.nonce.starts_with(our_nonce) || challenge.nonce.len() == our_nonce.len() {
        return Err(ScramError::Nonce);
    }
    if challenge.salt != keys.salt {
        return Err(ScramError::SaltDiffers);
    }
    if challenge.iterations != keys.iterations {
        return Err(ScramError::IterationsDiffer {
            ours: keys.iterations,
            theirs: challenge.iterations,
        });
    }
    let without_proof = format!("c={},r={}", binding.repeated(), challenge.nonce);
    let signed = auth_message(&first_bare(our_nonce), challenge.text, &without_proof);
    let client_signature = keys.client_key.stored_key().sign(&signed)?;
    let proof = crypto::xor(keys.client_key.bytes(), &client_signature);
    let proof = base64::encode(&proof);
    Ok((format!("{without_proof},p={proof}").into_bytes(), signed))
}

fn check_server(keys: &PassThrough, signed: &[u8], server_final: &[u8]) -> Result<(), ScramError> {
    match ServerFinal::parse(server_final)? {
        ServerFinal::Refused(word) => Err(ScramError::ServerRefused(printable(word))),
        ServerFinal::Signature(signature) => {
            let expected = keys.server_key.sign(signed)?;
            if crypto::equal(&expected, &signature) {
                Ok(())
            } else {
                Err(ScramError::ServerSignature)
            }
        }
    }
}
