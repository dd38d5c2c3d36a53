//! The server's party: a client proves its password to us (RFC 5802,
//! section 5; PostgreSQL's `auth-scram.c`).
//!
//! It takes the data of SASLInitialResponse and SASLResponse and gives that of
//! AuthenticationSASLContinue and AuthenticationSASLFinal; framing them is for
//! the caller. Invariant: each step is taken once and in order, an exchange
//! that erred stays dead, and a mock exchange never ends in a proof.

use std::mem;

use super::super::crypto::{self, CryptoError};
use super::super::keys::ClientKey;
use super::super::verifier::ScramVerifier;
use super::message::{ClientFinal, ClientFirst};
use super::mock::MockSecret;
use super::{ScramError, auth_message, nonce};

/// One login of one client by SCRAM-SHA-256.
#[derive(Debug)]
pub struct ServerExchange {
    verifier: ScramVerifier,
    /// The user does not exist or must not log in this way: no proof is right,
    /// but the work and the messages are the same.
    doomed: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Waits for client-first-message; the random part we add to the nonce.
    Start { our_nonce: String },
    /// Waits for client-final-message.
    Challenged {
        gs2_header: String,
        first_bare: String,
        server_first: String,
        nonce: String,
    },
    /// It has ended, well or not.
    Over,
}

/// How an exchange ended that kept to the protocol.
#[derive(Debug)]
pub enum Outcome {
    /// The client knows the password.
    Proven {
        /// The data of AuthenticationSASLFinal.
        server_final: Vec<u8>,
        /// With it the pooler can log in to PostgreSQL as this user.
        client_key: ClientKey,
    },
    /// It does not, or nobody could have.
    Refused,
}

impl ServerExchange {
    /// An exchange with a user of this verifier.
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn new(verifier: &ScramVerifier) -> Result<Self, CryptoError> {
        Ok(Self::with_nonce(verifier.clone(), false, nonce()?))
    }

    /// An exchange with a user who does not exist: it goes as any other and
    /// ends in [`Outcome::Refused`].
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn mock(user: &str, secret: &MockSecret) -> Result<Self, CryptoError> {
        Ok(Self::with_nonce(secret.verifier(user)?, true, nonce()?))
    }

    pub(super) fn with_nonce(verifier: ScramVerifier, doomed: bool, our_nonce: String) -> Self {
        ServerExchange {
            verifier,
            doomed,
            state: State::Start { our_nonce },
        }
    }

    /// Takes client-first-message (the data of SASLInitialResponse) and gives
    /// server-first-message.
    ///
    /// # Errors
    /// [`ScramError`]; the exchange is over then.
    pub fn client_first(&mut self, message: &[u8]) -> Result<Vec<u8>, ScramError> {
        let State::Start { our_nonce } = mem::replace(&mut self.state, State::Over) else {
            return Err(ScramError::OutOfOrder);
        };
        let message = ClientFirst::parse(message)?;
        let nonce = format!("{}{our_nonce}", message.nonce);
        let server_first = format!(
            "r={nonce},s={},i={}",
            crypto::base64_encode(self.verifier.salt()),
            self.verifier.iterations()
        );
        let reply = server_first.clone().into_bytes();
        self.state = State::Challenged {
            gs2_header: message.gs2_header.to_owned(),
            first_bare: message.bare.to_owned(),
            server_first,
            nonce,
        };
        Ok(reply)
    }

    /// Takes client-final-message (the data of SASLResponse) and says whether
    /// the client knows the password.
    ///
    /// # Errors
    /// [`ScramError`] when the client broke the protocol; a wrong password is
    /// no error but [`Outcome::Refused`].
    pub fn client_final(&mut self, message: &[u8]) -> Result<Outcome, ScramError> {
        let State::Challenged {
            gs2_header,
            first_bare,
            server_first,
            nonce,
        } = mem::replace(&mut self.state, State::Over)
        else {
            return Err(ScramError::OutOfOrder);
        };
        let message = ClientFinal::parse(message)?;
        // With channel binding, the binding data would follow the header here.
        if message.channel_binding != crypto::base64_encode(gs2_header.as_bytes()) {
            return Err(ScramError::ChannelBinding);
        }
        if message.nonce != nonce {
            return Err(ScramError::Nonce);
        }
        let signed = auth_message(&first_bare, &server_first, message.without_proof);
        let client_signature = self.verifier.stored_key().sign(&signed)?;
        let client_key = ClientKey::new(crypto::xor(&message.proof, &client_signature));
        let proven = client_key.stored_key() == *self.verifier.stored_key();
        // Asked only now: the doomed have had the same work done for them.
        if !proven || self.doomed {
            return Ok(Outcome::Refused);
        }
        let signature = self.verifier.server_key().sign(&signed)?;
        let server_final = format!("v={}", crypto::base64_encode(&signature)).into_bytes();
        Ok(Outcome::Proven {
            server_final,
            client_key,
        })
    }
}
