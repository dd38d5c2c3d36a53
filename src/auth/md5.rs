//! PostgreSQL's MD5 challenge (manual, "Message Flow", AuthenticationMD5Password):
//! asked of a client, and answered to a server.
//!
//! It works from the stored hash, so the same function serves both. It neither
//! reads nor writes messages: a client's response is taken without its closing
//! zero byte. Invariant: responses are compared in constant time, and a mock
//! challenge never succeeds.

use zeroize::Zeroizing;

use super::crypto::{self, CryptoError};
use super::verifier::Md5Hash;

/// The hash PostgreSQL stores for `password` of `user`.
///
/// # Errors
/// [`CryptoError`] where MD5 is forbidden (FIPS mode).
pub fn hash(password: &str, user: &str) -> Result<Md5Hash, CryptoError> {
    crypto::md5(&[password.as_bytes(), user.as_bytes()]).map(Md5Hash::new)
}

/// The response to the challenge `salt`: `md5` and 32 hexadecimal digits, to
/// be sent in a PasswordMessage.
///
/// # Errors
/// [`CryptoError`] where MD5 is forbidden (FIPS mode).
pub fn challenge_response(stored: &Md5Hash, salt: [u8; 4]) -> Result<String, CryptoError> {
    let inner = Zeroizing::new(hex(stored.digest()));
    let digest = crypto::md5(&[inner.as_bytes(), &salt])?;
    Ok(format!("md5{}", hex(&digest)))
}

/// Whether `response` (the PasswordMessage's text without its closing zero
/// byte) answers the challenge `salt`.
///
/// # Errors
/// [`CryptoError`] where MD5 is forbidden (FIPS mode).
pub fn check(stored: &Md5Hash, salt: [u8; 4], response: &[u8]) -> Result<bool, CryptoError> {
    let expected = challenge_response(stored, salt)?;
    Ok(crypto::equal(expected.as_bytes(), response))
}

/// One challenge to one client: a fresh salt and the hash it must answer with.
#[derive(Debug)]
pub struct Md5Challenge {
    stored: Md5Hash,
    salt: [u8; 4],
    /// The user does not exist or must not log in this way: no response is
    /// right, but the work is the same.
    doomed: bool,
}

impl Md5Challenge {
    /// A challenge that the holder of `stored` can answer; nobody, if it is `doomed`.
    ///
    /// # Errors
    /// [`CryptoError`] when there is no entropy.
    pub fn new(stored: &Md5Hash, doomed: bool) -> Result<Self, CryptoError> {
        Ok(Md5Challenge {
            stored: stored.clone(),
            salt: crypto::random()?,
            doomed,
        })
    }

    /// The salt to send in AuthenticationMD5Password.
    pub fn salt(&self) -> [u8; 4] {
        self.salt
    }

    /// Whether `response` (without its closing zero byte) is right.
    ///
    /// # Errors
    /// [`CryptoError`] where MD5 is forbidden (FIPS mode).
    pub fn check(&self, response: &[u8]) -> Result<bool, CryptoError> {
        Ok(check(&self.stored, self.salt, response)? & !self.doomed)
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8; 16]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(32);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::MockSecret;
    use crate::auth::verifier::Verifier;
    use postgres_protocol::authentication::md5_hash;

    const SALT: [u8; 4] = [0x2a, 0x3d, 0x8f, 0xe0];

    #[test]
    fn a_response_is_what_other_clients_would_send() {
        let stored = hash("password", "md5_user").unwrap();
        let response = challenge_response(&stored, SALT).unwrap();
        assert_eq!(response, "md562af4dd09bbb41884907a838a3233294");
        assert_eq!(response, md5_hash(b"md5_user", b"password", SALT));
    }

    #[test]
    fn the_hash_is_the_one_postgresql_stores() {
        // CREATE ROLE joe PASSWORD 'secret' under password_encryption = md5.
        let stored = Verifier::of("md5c59ec932d911ffdf487595b5a2adf973");
        assert_eq!(stored, Verifier::Md5(hash("secret", "joe").unwrap()));
    }

    #[test]
    fn only_the_exact_response_is_right() {
        let challenge = Md5Challenge::new(&hash("password", "joe").unwrap(), false).unwrap();
        let right = md5_hash(b"joe", b"password", challenge.salt());
        assert!(challenge.check(right.as_bytes()).unwrap());
        for wrong in [
            md5_hash(b"joe", b"passwort", challenge.salt()),
            md5_hash(b"jane", b"password", challenge.salt()),
            format!("{right}\0"),
            right[..34].to_owned(),
            String::new(),
            "password".to_owned(),
        ] {
            assert!(!challenge.check(wrong.as_bytes()).unwrap(), "{wrong:?}");
        }
    }

    #[test]
    fn a_mock_challenge_refuses_even_its_own_answer() {
        let secret = MockSecret::random().unwrap();
        let stored = Md5Hash::mock("nobody", &secret).unwrap();
        let challenge = Md5Challenge::new(&stored, true).unwrap();
        let answer = challenge_response(&challenge.stored, challenge.salt()).unwrap();
        assert!(!challenge.check(answer.as_bytes()).unwrap());
    }
}
