//! SCRAM-SHA-256 (RFC 5802, RFC 7677; PostgreSQL manual, "SASL
//! Authentication"): the server's party towards our clients, and the client's
//! towards PostgreSQL.
//!
//! | file | what it is |
//! |---|---|
//! | `message` | the four messages, read |
//! | `server` | we ask a client for its proof and recover its ClientKey |
//! | `mock` | the same for a user who does not exist: looks alike, always fails |
//! | `client` | we log in to PostgreSQL, by password or by the recovered key |
//! | `binding` | SCRAM-SHA-256-PLUS: what binds an exchange to its TLS connection |
//!
//! Invariant: any bytes give a message or an error, of bounded size and in
//! bounded time; each step is taken once and in order.

mod binding;
mod client;
mod message;
mod mock;
mod server;

pub use binding::{Binding, Mechanism};
pub use client::{ClientExchange, PassThrough};
pub use mock::{MOCK_ITERATIONS, MOCK_SALT_LENGTH, MockSecret};
pub use server::{Outcome, ServerExchange};

use super::crypto::CryptoError;
use crate::wire::base64;
use thiserror::Error;

/// The longest SASL message that is read, in bytes; PostgreSQL's own limit for
/// clients (`PG_MAX_SASL_MESSAGE_LENGTH`).
pub const MAX_MESSAGE_LENGTH: usize = 1024;

/// How often a password is hashed at most: some seconds' work. A server could demand any number.
const MAX_ITERATIONS: u32 = 10_000_000;

/// Random bytes in a nonce of ours, before base64; as PostgreSQL.
const NONCE_BYTES: usize = 18;

/// Why an exchange ended before its time. For the log: a client reads only
/// [`refusal`](super::refusal), or what [`words`](ScramError::words) says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScramError {
    /// The peer's message is longer than [`MAX_MESSAGE_LENGTH`].
    #[error("the SCRAM message is longer than {most} bytes", most = MAX_MESSAGE_LENGTH)]
    TooLong,
    /// The peer's message does not follow the grammar of RFC 5802; says where.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The peer demands what is not supported; says what.
    #[error("SCRAM: {0} is not supported")]
    Unsupported(&'static str),
    /// The nonce is not the one of this exchange.
    #[error("the SCRAM nonce is not the one of this exchange")]
    Nonce,
    /// The channel-binding value repeats another gs2 header than the one sent
    /// before.
    #[error("the SCRAM channel-binding value does not match the exchange")]
    ChannelBinding,
    /// The client could bind to the channel and believes that we cannot, although
    /// it was offered: somebody in between has struck out the offer.
    #[error(
        "SCRAM channel binding negotiation error: the client supports SCRAM channel binding but thinks \
         the server does not; however, this server does support channel binding"
    )]
    Downgrade,
    /// The client is bound to the certificate of another server.
    #[error(
        "SCRAM channel binding check failed: the client has seen another certificate than the pooler's"
    )]
    BoundElsewhere,
    /// A step was taken twice or too early.
    #[error("a SCRAM message came out of order")]
    OutOfOrder,
    /// PostgreSQL has another salt than the verifier the keys were proven
    /// against.
    #[error(
        "PostgreSQL stores another SCRAM verifier for this user (the salt differs): copy \
         pg_authid.rolpassword into the pooler's configuration again, or set server_password"
    )]
    SaltDiffers,
    /// PostgreSQL has another iteration count than the verifier the keys were
    /// proven against.
    #[error(
        "PostgreSQL stores another SCRAM verifier for this user ({theirs} iterations, the pooler's has \
         {ours}): copy pg_authid.rolpassword into the pooler's configuration again, or set server_password"
    )]
    IterationsDiffer {
        /// In the pooler's verifier.
        ours: u32,
        /// In PostgreSQL's.
        theirs: u32,
    },
    /// The server demands that the password is hashed so often.
    #[error("the server demands {0} SCRAM iterations, more than {most}", most = MAX_ITERATIONS)]
    TooManyIterations(u32),
    /// PostgreSQL refused the proof; its own word for it (RFC 5802, section 7).
    #[error("PostgreSQL refused the SCRAM proof: {0}")]
    ServerRefused(String),
    /// The server did not prove that it knows the verifier.
    #[error(
        "the server did not prove that it knows this user's SCRAM verifier; it may not be the PostgreSQL \
         it is taken for"
    )]
    ServerSignature,
    /// It could not be computed.
    #[error("{0}")]
    Crypto(#[from] CryptoError),
}

impl ScramError {
    /// What the client itself is told where PostgreSQL tells more than that the
    /// login failed; SQLSTATE 28000.
    pub fn words(&self) -> Option<&'static str> {
        match self {
            Self::Downgrade => Some("SCRAM channel binding negotiation error"),
            Self::BoundElsewhere => Some("SCRAM channel binding check failed"),
            _ => None,
        }
    }
}

/// A fresh nonce, or our part of one: printable, without a comma.
fn nonce() -> Result<String, CryptoError> {
    let bytes: [u8; NONCE_BYTES] = super::crypto::random()?;
    Ok(base64::encode(&bytes))
}

/// What both parties sign (RFC 5802, section 3, AuthMessage).
fn auth_message(first_bare: &str, server_first: &str, final_without_proof: &str) -> Vec<u8> {
    format!("{first_bare},{server_first},{final_without_proof}").into_bytes()
}

#[cfg(test)]
mod tests;
