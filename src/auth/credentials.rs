//! What the pooler knows to log in to PostgreSQL with: a name, and one secret
//! or none.
//!
//! Where it comes from (the configuration, a query, what a client proved) and
//! which message carries it is for others to say. Invariant: its secrets are
//! wiped when dropped and `Debug` hides them.

use std::time::SystemTime;

use super::crypto::CryptoError;
use super::jwt;
use super::keys::Password;
use super::md5;
use super::scram::{Binding, PassThrough};
use super::verifier::Md5Hash;
use crate::config::TokenSigner;

/// As whom, and with what, the pooler logs in to PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCredentials {
    /// The role.
    pub user: String,
    /// What proves it.
    pub secret: ServerSecret,
}

/// What proves to PostgreSQL that the pooler may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerSecret {
    /// Nothing: PostgreSQL must trust the pooler.
    None,
    /// The password itself: good for every method.
    Password(Password),
    /// The hash a client proved or the configuration stores: good for MD5.
    Md5Hash(Md5Hash),
    /// The keys a client proved: good for SCRAM-SHA-256.
    ScramKeys(PassThrough),
    /// The key that signs a token each time PostgreSQL asks for a password in clear text.
    TokenKey(TokenSigner),
}

impl ServerCredentials {
    /// The response to PostgreSQL's MD5 challenge, or `None` when what is
    /// known cannot answer one.
    ///
    /// # Errors
    /// [`CryptoError`] where MD5 is forbidden (FIPS mode).
    pub fn md5_response(&self, salt: [u8; 4]) -> Result<Option<String>, CryptoError> {
        match &self.secret {
            ServerSecret::Password(password) => {
                let hash = md5::hash(password.expose(), &self.user)?;
                md5::challenge_response(&hash, salt).map(Some)
            }
            ServerSecret::Md5Hash(hash) => md5::challenge_response(hash, salt).map(Some),
            ServerSecret::None | ServerSecret::ScramKeys(_) | ServerSecret::TokenKey(_) => Ok(None),
        }
    }

    /// Our party of a SCRAM-SHA-256 exchange, or `None` when what is known
    /// cannot carry one.
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn scram_exchange(
        &self,
        binding: Binding,
    ) -> Result<Option<super::ClientExchange>, CryptoError> {
        match &self.secret {
            ServerSecret::Password(password) => {
                super::ClientExchange::with_password(password, binding).map(Some)
            }
            ServerSecret::ScramKeys(keys) => {
                super::ClientExchange::with_keys(keys.clone(), binding).map(Some)
            }
            ServerSecret::None | ServerSecret::Md5Hash(_) | ServerSecret::TokenKey(_) => Ok(None),
        }
    }

    /// The password in plain text, for a server that asks for it so, or `None`
    /// when it is not known. A token is signed anew each time.
    ///
    /// # Errors
    /// [`CryptoError`] when a token cannot be signed.
    pub fn cleartext(&self) -> Result<Option<Password>, CryptoError> {
        match &self.secret {
            ServerSecret::Password(password) => Ok(Some(password.clone())),
            ServerSecret::TokenKey(signer) => {
                let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
                let token = jwt::sign(signer, &self.user, now)?;
                Ok(Some(Password::new(token)))
            }
            ServerSecret::None | ServerSecret::Md5Hash(_) | ServerSecret::ScramKeys(_) => Ok(None),
        }
    }

    /// What is known, in the words of a log line: what to look for when
    /// PostgreSQL asks for something else.
    pub fn describe(&self) -> &'static str {
        match self.secret {
            ServerSecret::None => "no password",
            ServerSecret::Password(_) => "a password",
            ServerSecret::Md5Hash(_) => "an MD5 hash",
            ServerSecret::ScramKeys(_) => "SCRAM keys",
            ServerSecret::TokenKey(_) => "a key for tokens",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(secret: ServerSecret) -> ServerCredentials {
        ServerCredentials {
            user: "joe".into(),
            secret,
        }
    }

    #[test]
    fn a_password_and_its_hash_answer_the_md5_challenge_alike() {
        let by_password = with(ServerSecret::Password(Password::new("secret".into())));
        let by_hash = with(ServerSecret::Md5Hash(md5::hash("secret", "joe").unwrap()));
        let answer = by_password.md5_response(*b"salt").unwrap();
        assert!(answer.is_some());
        assert_eq!(answer, by_hash.md5_response(*b"salt").unwrap());
        assert_eq!(with(ServerSecret::None).md5_response(*b"salt"), Ok(None));
    }

    #[test]
    fn a_hash_cannot_carry_scram_and_keys_are_no_cleartext() {
        let by_hash = with(ServerSecret::Md5Hash(md5::hash("secret", "joe").unwrap()));
        assert!(
            by_hash
                .scram_exchange(Binding::Impossible)
                .unwrap()
                .is_none()
        );
        assert_eq!(by_hash.cleartext(), Ok(None));
    }
}
