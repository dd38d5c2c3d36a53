//! A verifier for a user who does not exist, so that nobody learns from the
//! exchange who does (PostgreSQL's mock authentication, `auth-scram.c`).
//!
//! It is only data: the exchange itself is the ordinary one, told to fail.
//! Invariant: the same user gets the same salt as long as the secret lives,
//! and without the secret no one can tell it from a stored one.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::super::crypto::{self, CryptoError, DIGEST_LENGTH};
use super::super::keys::{ServerKey, StoredKey};
use super::super::verifier::ScramVerifier;

/// The iteration count of an invented verifier: PostgreSQL's default.
pub const MOCK_ITERATIONS: u32 = 4096;

/// The length of an invented salt, in bytes: PostgreSQL's.
pub const MOCK_SALT_LENGTH: usize = 16;

/// What invented verifiers are derived from. One for a process and for its
/// successors, hence serializable: a salt that changes with an upgrade, where
/// those of real users stay, would give the others away.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct MockSecret([u8; DIGEST_LENGTH]);

impl MockSecret {
    /// A new secret.
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn random() -> Result<Self, CryptoError> {
        crypto::random().map(MockSecret)
    }

    /// `N` bytes (at most 32) that depend on the user and on what they are for.
    pub(crate) fn bytes<const N: usize>(
        &self,
        purpose: &str,
        user: &str,
    ) -> Result<[u8; N], CryptoError> {
        const { assert!(N <= DIGEST_LENGTH) }
        let digest = crypto::hmac(&self.0, &[purpose.as_bytes(), b"\0", user.as_bytes()])?;
        Ok(std::array::from_fn(|i| digest[i]))
    }

    /// A salt of this length.
    fn salt(&self, user: &str, length: usize) -> Result<Vec<u8>, CryptoError> {
        let mut salt = self.bytes::<DIGEST_LENGTH>("salt", user)?.to_vec();
        while salt.len() < length {
            let more = format!("salt {}", salt.len());
            salt.extend(self.bytes::<DIGEST_LENGTH>(&more, user)?);
        }
        salt.truncate(length);
        Ok(salt)
    }

    /// The verifier invented for `user`, with what a client can see of it.
    pub(crate) fn verifier(
        &self,
        user: &str,
        iterations: u32,
        salt: usize,
    ) -> Result<ScramVerifier, CryptoError> {
        Ok(ScramVerifier::new(
            iterations,
            self.salt(user, salt)?,
            StoredKey::new(self.bytes("stored key", user)?),
            ServerKey::new(self.bytes("server key", user)?),
        ))
    }
}

impl fmt::Debug for MockSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MockSecret(hidden)")
    }
}
