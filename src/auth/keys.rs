//! The secrets that travel between the parts of the pooler: plain values that
//! can be cloned, compared, and written into the hand-over to another process.
//!
//! Invariant: their memory is wiped when they are dropped, their comparison is
//! constant in time, and `Debug` shows their type only.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::crypto::{self, CryptoError, DIGEST_LENGTH};

/// SCRAM's ClientKey (RFC 5802, section 3): what the pooler recovers from a
/// client's proof, and with which it can log in to PostgreSQL as that user.
/// As good as the password itself towards every server that stores the same
/// verifier.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct ClientKey([u8; DIGEST_LENGTH]);

/// SCRAM's ServerKey (RFC 5802, section 3): with it a server proves that it
/// knows the verifier.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct ServerKey([u8; DIGEST_LENGTH]);

/// SCRAM's StoredKey (RFC 5802, section 3): the hash of the [`ClientKey`]. It
/// recognises a client and cannot be used to log in.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct StoredKey([u8; DIGEST_LENGTH]);

/// A password in plain text.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Password(String);

/// What a client has proved to have when it logged in, if the pooler can log in to PostgreSQL with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// SCRAM's ClientKey.
    Key(ClientKey),
    /// The password itself.
    Password(Password),
}

impl ClientKey {
    /// The key of these 32 bytes.
    pub fn new(bytes: [u8; DIGEST_LENGTH]) -> Self {
        ClientKey(bytes)
    }

    /// The 32 bytes. Only for computing with them.
    pub fn bytes(&self) -> &[u8; DIGEST_LENGTH] {
        &self.0
    }

    /// What a verifier stores of this key: its hash.
    pub fn stored_key(&self) -> StoredKey {
        StoredKey(crypto::sha256(&self.0))
    }
}

impl ServerKey {
    /// The key of these 32 bytes.
    pub fn new(bytes: [u8; DIGEST_LENGTH]) -> Self {
        ServerKey(bytes)
    }

    /// The server's signature of an exchange (RFC 5802, section 3).
    pub(crate) fn sign(&self, auth_message: &[u8]) -> Result<[u8; DIGEST_LENGTH], CryptoError> {
        crypto::hmac(&self.0, &[auth_message])
    }
}

impl StoredKey {
    /// The key of these 32 bytes.
    pub fn new(bytes: [u8; DIGEST_LENGTH]) -> Self {
        StoredKey(bytes)
    }

    /// The client's signature of an exchange (RFC 5802, section 3): XORed with
    /// the ClientKey it is the proof, and XORed with the proof the ClientKey.
    pub(crate) fn sign(&self, auth_message: &[u8]) -> Result<[u8; DIGEST_LENGTH], CryptoError> {
        crypto::hmac(&self.0, &[auth_message])
    }
}

impl Password {
    /// Takes the text over; there is no copy left elsewhere.
    pub fn new(text: String) -> Self {
        Password(text)
    }

    /// The text. Only for sending it, or computing with it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

macro_rules! secret {
    ($($name:ident),*) => {$(
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                let (a, b): (&[u8], &[u8]) = (self.0.as_ref(), other.0.as_ref());
                crypto::equal(a, b)
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(hidden)"))
            }
        }
    )*};
}

secret!(ClientKey, ServerKey, StoredKey, Password);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_key_arrives_in_the_next_process_as_it_left() {
        let key = ClientKey::new(std::array::from_fn(|i| i as u8));
        let mut cbor = Vec::new();
        ciborium::into_writer(&key, &mut cbor).unwrap();
        let back: ClientKey = ciborium::from_reader(&cbor[..]).unwrap();
        assert_eq!(back.bytes(), key.bytes());
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(
            format!("{:?}", Password::new("pencil".into())),
            "Password(hidden)"
        );
        assert_eq!(
            format!("{:?}", ClientKey::new([7; 32])),
            "ClientKey(hidden)"
        );
    }

    #[test]
    fn passwords_are_equal_when_their_texts_are() {
        assert_eq!(Password::new("a".into()), Password::new("a".into()));
        assert_ne!(Password::new("a".into()), Password::new("b".into()));
        assert_ne!(Password::new("a".into()), Password::new("ab".into()));
    }
}
