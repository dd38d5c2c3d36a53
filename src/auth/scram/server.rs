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
use super::binding::{self, END_POINT, Mechanism};
use super::message::{ClientFinal, ClientFirst, Flag};
use super::{ScramError, auth_message, nonce};
use crate::wire::base64;

/// One login of one client by SCRAM-SHA-256.
#[derive(Debug)]
pub struct ServerExchange {
    verifier: ScramVerifier,
    /// The user does not exist or must not log in this way: no proof is right,
    /// but the work and the messages are the same.
    doomed: bool,
    /// The hash of our certificate, where a client may bind to it.
    channel_binding: Option<Vec<u8>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Waits for client-first-message; the random part we add to the nonce.
    Start { our_nonce: String },
    /// Waits for client-final-message.
    Challenged {
        /// What the client must say in `c=`.
        channel_binding: String,
        bound: bool,
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
    /// An exchange with a user of this verifier. If it is `doomed` it goes as
    /// any other and ends in [`Outcome::Refused`].
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn new(verifier: &ScramVerifier, doomed: bool) -> Result<Self, CryptoError> {
        Ok(Self::with_nonce(verifier.clone(), doomed, nonce()?))
    }

    /// What the client will see of the verifier.
    #[cfg(test)]
    pub(crate) fn parameters(&self) -> (u32, &[u8]) {
        (self.verifier.iterations(), self.verifier.salt())
    }

    pub(super) fn with_nonce(verifier: ScramVerifier, doomed: bool, our_nonce: String) -> Self {
        ServerExchange {
            verifier,
            doomed,
            channel_binding: None,
            state: State::Start { our_nonce },
        }
    }

    /// Lets the client bind to the TLS connection it has come by: to the
    /// certificate of this hash, which is the one it was shown.
    pub fn offer_binding(&mut self, channel_binding: Vec<u8>) {
        self.channel_binding = Some(channel_binding);
    }

    /// The mechanisms to offer, for AuthenticationSASL, best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.channel_binding {
            Some(_) => &["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"],
            None => &["SCRAM-SHA-256"],
        }
    }

    /// Takes the mechanism that the client has chosen and client-first-message
    /// (name and data of SASLInitialResponse), and gives server-first-message.
    ///
    /// # Errors
    /// [`ScramError`]; the exchange is over then.
    pub fn client_first(
        &mut self,
        mechanism: Mechanism,
        message: &[u8],
    ) -> Result<Vec<u8>, ScramError> {
        let State::Start { our_nonce } = mem::replace(&mut self.state, State::Over) else {
            return Err(ScramError::OutOfOrder);
        };
        let message = ClientFirst::parse(message)?;
        let bound = self.bound_to(mechanism, &message.flag)?;
        let channel_binding = binding::repeated(message.gs2_header, bound.unwrap_or_default());
        let bound = bound.is_some();
        let nonce = format!("{}{our_nonce}", message.nonce);
        let server_first = format!(
            "r={nonce},s={},i={}",
            base64::encode(self.verifier.salt()),
            self.verifier.iterations()
        );
        let reply = server_first.clone().into_bytes();
        self.state = State::Challenged {
            channel_binding,
            bound,
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
            channel_binding,
            bound,
            first_bare,
            server_first,
            nonce,
        } = mem::replace(&mut self.state, State::Over)
        else {
            return Err(ScramError::OutOfOrder);
        };
        let message = ClientFinal::parse(message)?;
        if message.channel_binding != channel_binding {
            return Err(match bound {
                true => ScramError::BoundElsewhere,
                false => ScramError::ChannelBinding,
            });
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
        let server_final = format!("v={}", base64::encode(&signature)).into_bytes();
        Ok(Outcome::Proven {
            server_final,
            client_key,
        })
    }

    /// The hash that the client must bind to; `None` if it is not to bind.
    fn bound_to(&self, mechanism: Mechanism, flag: &Flag<'_>) -> Result<Option<&[u8]>, ScramError> {
        match (mechanism, flag, self.channel_binding.as_deref()) {
            (Mechanism::Sha256, Flag::Not, _) | (Mechanism::Sha256, Flag::NotOffered, None) => {
                Ok(None)
            }
            (Mechanism::Sha256, Flag::NotOffered, Some(_)) => Err(ScramError::Downgrade),
            (Mechanism::Sha256, Flag::By(_), _) => Err(ScramError::Malformed(
                "the client selected SCRAM-SHA-256 without channel binding, but the message \
                 includes channel binding data",
            )),
            (Mechanism::Sha256Plus, _, None) => Err(ScramError::Unsupported("channel binding")),
            (Mechanism::Sha256Plus, Flag::By(END_POINT), Some(hash)) => Ok(Some(hash)),
            (Mechanism::Sha256Plus, Flag::By(_), _) => {
                Err(ScramError::Unsupported("this type of channel binding"))
            }
            (Mechanism::Sha256Plus, Flag::Not | Flag::NotOffered, _) => Err(ScramError::Malformed(
                "the client selected SCRAM-SHA-256-PLUS, but the message does not include channel \
                 binding data",
            )),
        }
    }
}
