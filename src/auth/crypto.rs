//! The primitives of OpenSSL that logins stand on, with their edges taken off:
//! comparison that does not panic on lengths, and one small error. Random bytes come from the kernel: OpenSSL's
//! generator keeps 4 KiB for each thread that has ever asked it, and here a
//! thread is a client.
//!
//! It knows no protocol. Invariant: nothing in here panics on any input, and
//! no comparison takes longer the more of a secret was right.

use openssl::error::ErrorStack;
use openssl::hash::{MessageDigest, hash};
use openssl::memcmp;
use openssl::pkcs5::pbkdf2_hmac;
use openssl::pkey::PKey;
use openssl::sha;
use openssl::sign::Signer;
use thiserror::Error;
use zeroize::Zeroizing;

/// The length of a SHA-256 digest and of every SCRAM-SHA-256 key, in bytes.
pub const DIGEST_LENGTH: usize = 32;

/// It could not be computed: the algorithm is forbidden on this machine (MD5
/// in FIPS mode), or there is no entropy or memory.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("cryptography failed: {0}")]
pub struct CryptoError(String);

impl From<ErrorStack> for CryptoError {
    fn from(stack: ErrorStack) -> Self {
        // The stack can be empty, and then prints as nothing useful.
        match stack.errors().first() {
            Some(first) => CryptoError(first.reason().unwrap_or("unknown reason").to_owned()),
            None => CryptoError("no reason given".to_owned()),
        }
    }
}

/// SHA-256 of `data`.
pub(crate) fn sha256(data: &[u8]) -> [u8; DIGEST_LENGTH] {
    sha::sha256(data)
}

/// MD5 of the parts, one after the other.
pub(crate) fn md5(parts: &[&[u8]]) -> Result<[u8; 16], CryptoError> {
    // One of the parts can be a password.
    let mut joined = Zeroizing::new(Vec::with_capacity(parts.iter().map(|p| p.len()).sum()));
    for part in parts {
        joined.extend_from_slice(part);
    }
    let digest = hash(MessageDigest::md5(), &joined)?;
    <[u8; 16]>::try_from(&digest[..]).map_err(|_| CryptoError("short digest".to_owned()))
}

/// HMAC-SHA-256 of the parts, one after the other.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> Result<[u8; DIGEST_LENGTH], CryptoError> {
    let key = PKey::hmac(key)?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
    for part in parts {
        signer.update(part)?;
    }
    let mut tag = [0; DIGEST_LENGTH];
    match signer.sign(&mut tag)? {
        DIGEST_LENGTH => Ok(tag),
        _ => Err(CryptoError("short digest".to_owned())),
    }
}

/// PBKDF2 with HMAC-SHA-256: SCRAM's SaltedPassword (RFC 5802, section 3).
///
/// # Errors
/// [`CryptoError`] when OpenSSL cannot compute it.
pub(crate) fn pbkdf2(
    password: &[u8],
    salt: &[u8],
    iterations: u32,
) -> Result<Zeroizing<[u8; DIGEST_LENGTH]>, CryptoError> {
    let mut salted = Zeroizing::new([0; DIGEST_LENGTH]);
    pbkdf2_hmac(
        password,
        salt,
        iterations as usize,
        MessageDigest::sha256(),
        &mut *salted,
    )?;
    Ok(salted)
}

/// `a` XOR `b`.
pub(crate) fn xor(a: &[u8; DIGEST_LENGTH], b: &[u8; DIGEST_LENGTH]) -> [u8; DIGEST_LENGTH] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// Whether two byte strings are equal, in a time that depends on their lengths
/// only.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    // OpenSSL's comparison panics on different lengths, which are no secret.
    a.len() == b.len() && memcmp::eq(a, b)
}

/// `N` bytes nobody can guess.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], CryptoError> {
    let mut bytes = [0; N];
    fill_randomly(&mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes` with what nobody can guess (getrandom(2)).
///
/// # Errors
/// [`CryptoError`] when there is no entropy.
pub fn fill_randomly(bytes: &mut [u8]) -> Result<(), CryptoError> {
    getrandom::fill(bytes).map_err(|error| CryptoError(format!("no random bytes: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::base64;

    #[test]
    fn hmac_agrees_with_rfc_4231_case_2() {
        let tag = hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]).unwrap();
        assert_eq!(
            base64::encode(&tag),
            "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM="
        );
    }

    #[test]
    fn comparing_different_lengths_is_false_and_no_panic() {
        assert!(!equal(b"a", b"ab"));
        assert!(!equal(b"ab", b"ac"));
        assert!(equal(b"", b""));
    }
}
