//! The client's party: we log in to PostgreSQL (RFC 5802, section 5), by a
//! password or by the keys a client proved to us before.
//!
//! It gives the data of SASLInitialResponse and SASLResponse and takes that of
//! AuthenticationSASLContinue and AuthenticationSASLFinal. Which mechanism goes
//! with it is for [`Binding::mechanism`] to say. Invariant: it has succeeded
//! only when [`finish`](ClientExchange::finish) says so, which is when the
//! server has proven itself too.

use std::borrow::Cow;
use std::{fmt, mem};

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::super::crypto::{self, CryptoError};
use super::super::keys::{ClientKey, Password, ServerKey};
use super::binding::Binding;
use super::message::{ServerFinal, ServerFirst};
use super::{MAX_ITERATIONS, ScramError, auth_message, nonce};
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
pub struct ClientExchange {
    proof: Proof,
    binding: Binding,
    state: State,
}

/// What the pooler proves that it knows.
enum Proof {
    /// The password. The keys are made of it when the server has said how.
    Password(Password),
    /// The keys that a client proved.
    Keys(PassThrough),
}

enum State {
    /// Nothing has been sent.
    Start { nonce: String },
    /// client-first-message has been sent.
    FirstSent { nonce: String },
    /// client-final-message has been sent; the server has to sign this.
    FinalSent { signed: Vec<u8>, keys: PassThrough },
    /// It has ended, well or not.
    Over,
}

impl ClientExchange {
    /// A login by password. The server says how often it is hashed, up to `MAX_ITERATIONS`.
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn with_password(password: &Password, binding: Binding) -> Result<Self, CryptoError> {
        let proof = Proof::Password(password.clone());
        Ok(Self::with_nonce(proof, binding, nonce()?))
    }

    /// A login by the keys a client proved.
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn with_keys(keys: PassThrough, binding: Binding) -> Result<Self, CryptoError> {
        Ok(Self::with_nonce(Proof::Keys(keys), binding, nonce()?))
    }

    #[cfg(test)]
    pub(super) fn with_keys_and_nonce(keys: PassThrough, binding: Binding, nonce: String) -> Self {
        Self::with_nonce(Proof::Keys(keys), binding, nonce)
    }

    fn with_nonce(proof: Proof, binding: Binding, nonce: String) -> Self {
        ClientExchange {
            proof,
            binding,
            state: State::Start { nonce },
        }
    }

    /// client-first-message, to be sent in SASLInitialResponse.
    ///
    /// # Errors
    /// [`ScramError::OutOfOrder`] when asked for twice.
    pub fn first(&mut self) -> Result<Vec<u8>, ScramError> {
        let State::Start { nonce } = mem::replace(&mut self.state, State::Over) else {
            return Err(ScramError::OutOfOrder);
        };
        let first = format!("{}{}", self.binding.gs2_header(), first_bare(&nonce));
        self.state = State::FirstSent { nonce };
        Ok(first.into_bytes())
    }

    /// Takes server-first-message (of AuthenticationSASLContinue) and gives
    /// client-final-message, to be sent in SASLResponse.
    ///
    /// # Errors
    /// [`ScramError`]; the exchange is over then. Among them
    /// [`ScramError::SaltDiffers`] and [`ScramError::IterationsDiffer`]: the
    /// keys belong to another verifier than PostgreSQL's.
    pub fn continue_(&mut self, server_first: &[u8]) -> Result<Vec<u8>, ScramError> {
        let State::FirstSent { nonce } = mem::replace(&mut self.state, State::Over) else {
            return Err(ScramError::OutOfOrder);
        };
        let challenge = ServerFirst::parse(server_first)?;
        // The server must have added something of its own.
        if !challenge.nonce.starts_with(&nonce) || challenge.nonce.len() == nonce.len() {
            return Err(ScramError::Nonce);
        }
        let keys = self.proof.keys(&challenge)?;
        let without_proof = format!("c={},r={}", self.binding.repeated(), challenge.nonce);
        let signed = auth_message(&first_bare(&nonce), challenge.text, &without_proof);
        let client_signature = keys.client_key.stored_key().sign(&signed)?;
        let proof = base64::encode(&crypto::xor(keys.client_key.bytes(), &client_signature));
        self.state = State::FinalSent { signed, keys };
        Ok(format!("{without_proof},p={proof}").into_bytes())
    }

    /// Takes server-final-message (of AuthenticationSASLFinal); `Ok` when the
    /// server has proven that it knows the user's verifier.
    ///
    /// # Errors
    /// [`ScramError`]; the server must not be trusted then.
    pub fn finish(&mut self, server_final: &[u8]) -> Result<(), ScramError> {
        let State::FinalSent { signed, keys } = mem::replace(&mut self.state, State::Over) else {
            return Err(ScramError::OutOfOrder);
        };
        match ServerFinal::parse(server_final)? {
            ServerFinal::Refused(word) => Err(ScramError::ServerRefused(printable(word))),
            ServerFinal::Signature(signature) => {
                let expected = keys.server_key.sign(&signed)?;
                if crypto::equal(&expected, &signature) {
                    Ok(())
                } else {
                    Err(ScramError::ServerSignature)
                }
            }
        }
    }
}

impl Proof {
    /// The keys that answer this challenge.
    fn keys(&self, challenge: &ServerFirst<'_>) -> Result<PassThrough, ScramError> {
        match self {
            Proof::Password(_) if challenge.iterations > MAX_ITERATIONS => {
                Err(ScramError::TooManyIterations(challenge.iterations))
            }
            Proof::Password(password) => Ok(PassThrough::of_password(
                password.expose(),
                &challenge.salt,
                challenge.iterations,
            )?),
            Proof::Keys(keys) if challenge.salt != keys.salt => Err(ScramError::SaltDiffers),
            Proof::Keys(keys) if challenge.iterations != keys.iterations => {
                Err(ScramError::IterationsDiffer {
                    ours: keys.iterations,
                    theirs: challenge.iterations,
                })
            }
            Proof::Keys(keys) => Ok(keys.clone()),
        }
    }
}

impl PassThrough {
    /// The keys that a password gives with this salt and so many iterations (RFC 5802, section 3). The
    /// password is normalised by SASLprep where that is possible, as PostgreSQL does.
    ///
    /// # Errors
    /// [`CryptoError`] when OpenSSL cannot compute them.
    pub(crate) fn of_password(
        password: &str,
        salt: &[u8],
        iterations: u32,
    ) -> Result<PassThrough, CryptoError> {
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let salted = crypto::pbkdf2(prepared.as_bytes(), salt, iterations)?;
        if let Cow::Owned(mut prepared) = prepared {
            prepared.zeroize();
        }
        Ok(PassThrough {
            client_key: ClientKey::new(crypto::hmac(&*salted, &[b"Client Key"])?),
            server_key: ServerKey::new(crypto::hmac(&*salted, &[b"Server Key"])?),
            iterations,
            salt: salt.to_vec(),
        })
    }
}

impl fmt::Debug for ClientExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.proof {
            Proof::Password(_) => "ClientExchange(with a password)",
            Proof::Keys(_) => "ClientExchange(with keys)",
        })
    }
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
