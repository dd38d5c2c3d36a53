//! What is stored of a user's password: nothing, an MD5 hash, or a SCRAM
//! verifier.
//!
//! It keeps what [`config::password`](crate::config::password) has read; the
//! exchanges are in [`md5`](super::md5) and [`scram`](super::scram). Invariant:
//! a value of these types is complete and within its bounds, and its `Debug`
//! output shows none of its contents.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::crypto::{self, CryptoError};
use super::keys::{ClientKey, ServerKey, StoredKey};
use super::scram::{MOCK_ITERATIONS, MOCK_SALT_LENGTH, MockSecret, PassThrough};
use crate::config::Password;

/// What is stored of a user's password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verifier {
    /// An empty password: nobody logs in with it. A `trust` rule needs none.
    None,
    /// `md5` and 32 hexadecimal digits.
    Md5(Md5Hash),
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    Scram(ScramVerifier),
}

/// MD5 of the password followed by the user's name. As good as the password
/// itself for the MD5 method, hence a secret.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Md5Hash([u8; 16]);

/// A SCRAM-SHA-256 verifier (RFC 5803, in PostgreSQL's spelling).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramVerifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: StoredKey,
    server_key: ServerKey,
}

impl From<&Password> for Verifier {
    fn from(password: &Password) -> Self {
        match password {
            // A token is checked by its key, and by no verifier.
            Password::Empty | Password::Jwt(_) => Self::None,
            Password::Md5(hash) => Self::Md5(Md5Hash(hash.0)),
            Password::Scram(parts) => Self::Scram(ScramVerifier {
                iterations: parts.iterations,
                salt: parts.salt.clone(),
                stored_key: StoredKey::new(parts.stored_key),
                server_key: ServerKey::new(parts.server_key),
            }),
        }
    }
}

#[cfg(test)]
impl Verifier {
    /// The verifier with this text.
    pub(crate) fn of(text: &str) -> Self {
        Self::from(&Password::parse(text).unwrap())
    }
}

impl Md5Hash {
    /// The hash of these 16 bytes.
    pub(crate) fn new(digest: [u8; 16]) -> Self {
        Md5Hash(digest)
    }

    /// The hash invented for `user`.
    pub(crate) fn mock(user: &str, secret: &MockSecret) -> Result<Self, CryptoError> {
        secret.bytes("md5", user).map(Md5Hash)
    }

    /// The 16 bytes. Only for computing with them.
    pub(crate) fn digest(&self) -> &[u8; 16] {
        &self.0
    }
}

impl PartialEq for Md5Hash {
    fn eq(&self, other: &Self) -> bool {
        crypto::equal(&self.0, &other.0)
    }
}

impl Eq for Md5Hash {}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Hash(hidden)")
    }
}

impl ScramVerifier {
    /// A verifier of known parts, for one that is invented.
    pub(crate) fn new(
        iterations: u32,
        salt: Vec<u8>,
        stored_key: StoredKey,
        server_key: ServerKey,
    ) -> Self {
        ScramVerifier {
            iterations,
            salt,
            stored_key,
            server_key,
        }
    }

    /// The verifier of a password in plain text, as PostgreSQL would make it (SASLprep, PBKDF2 with 4096
    /// rounds). Its salt is that of the user's mock verifier, so that nobody can tell the one from the other.
    ///
    /// # Errors
    /// [`CryptoError`] when OpenSSL cannot compute it.
    pub fn of_password(
        password: &str,
        user: &str,
        secret: &MockSecret,
    ) -> Result<ScramVerifier, CryptoError> {
        let mut verifier = secret.verifier(user, MOCK_ITERATIONS, MOCK_SALT_LENGTH)?;
        let keys = PassThrough::of_password(password, &verifier.salt, verifier.iterations)?;
        verifier.stored_key = keys.client_key.stored_key();
        verifier.server_key = keys.server_key;
        Ok(verifier)
    }

    /// How often the password was hashed.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The salt, as bytes.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The key that recognises the client.
    pub(crate) fn stored_key(&self) -> &StoredKey {
        &self.stored_key
    }

    /// The key that the client recognises us by.
    pub(crate) fn server_key(&self) -> &ServerKey {
        &self.server_key
    }

    /// What is needed to log in to a PostgreSQL that stores this same
    /// verifier, or `None` when `client_key` does not belong to it (it was
    /// proven against an older password).
    pub fn pass_through(&self, client_key: ClientKey) -> Option<PassThrough> {
        (client_key.stored_key() == self.stored_key).then(|| PassThrough {
            client_key,
            server_key: self.server_key.clone(),
            iterations: self.iterations,
            salt: self.salt.clone(),
        })
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn every_form_of_password_has_its_verifier() {
        assert_eq!(Verifier::of(""), Verifier::None);
        let md5 = Verifier::of("md5a3556571e93b0d20722ba62be61e8c2d");
        assert!(matches!(md5, Verifier::Md5(_)));
        let Verifier::Scram(scram) = Verifier::of(SCRAM) else {
            panic!("a verifier of PostgreSQL is not read");
        };
        assert_eq!(scram.iterations(), 4096);
        assert_eq!(scram.salt().len(), 16);
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        for text in [SCRAM, "md5a3556571e93b0d20722ba62be61e8c2d"] {
            let shown = format!("{:?}", Verifier::of(text));
            assert!(shown.ends_with("(hidden))"), "{shown}");
        }
    }

    #[test]
    fn a_client_key_of_another_password_gives_no_pass_through() {
        let Verifier::Scram(scram) = Verifier::of(SCRAM) else {
            panic!("a verifier of PostgreSQL is not read");
        };
        assert!(scram.pass_through(ClientKey::new([0; 32])).is_none());
    }
}
