//! What is stored of a user's password: nothing, an MD5 hash, or a SCRAM
//! verifier, in the spelling of `pg_authid.rolpassword` (PostgreSQL manual,
//! "pg_authid").
//!
//! It reads verifiers and keeps their parts; the exchanges are in
//! [`md5`](super::md5) and [`scram`](super::scram). Invariant: a value of these
//! types is complete and within its bounds; neither its `Debug` output nor an
//! error about it shows any of its contents.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::crypto;
use super::keys::{ClientKey, ServerKey, StoredKey};
use super::scram::PassThrough;

/// The longest salt that is accepted, in bytes. PostgreSQL writes 16.
pub const MAX_SALT_LENGTH: usize = 256;

/// The largest number of iterations that is accepted; also what PostgreSQL's
/// `scram_iterations` ends at.
pub const MAX_ITERATIONS: u32 = i32::MAX as u32;

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

/// Why a text is not a verifier. It never contains any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifierError {
    /// It begins like no known verifier; a plain password, say.
    UnknownKind,
    /// After `md5` there are not exactly 32 hexadecimal digits.
    Md5Digits,
    /// A `$` or `:` of a SCRAM verifier is missing or one too many.
    ScramShape,
    /// The iteration count is not a number from 1 to [`MAX_ITERATIONS`].
    ScramIterations,
    /// The salt is not base64 of 1 to [`MAX_SALT_LENGTH`] bytes.
    ScramSalt,
    /// The StoredKey or the ServerKey is not base64 of 32 bytes.
    ScramKey,
}

impl fmt::Display for VerifierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKind => {
                "is neither empty nor begins with \"md5\" or \"SCRAM-SHA-256$\"; take it from \
                 pg_authid.rolpassword"
            }
            Self::Md5Digits => "must have exactly 32 hexadecimal digits after \"md5\"",
            Self::ScramShape => {
                "must read SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>"
            }
            Self::ScramIterations => "must have an iteration count from 1 to 2147483647",
            Self::ScramSalt => "must have a salt of 1 to 256 bytes in base64",
            Self::ScramKey => "must have a StoredKey and a ServerKey of 32 bytes each in base64",
        })
    }
}

impl std::error::Error for VerifierError {}

impl Verifier {
    /// Reads a verifier as `pg_authid.rolpassword` or a configuration has it.
    ///
    /// # Errors
    /// [`VerifierError`], which completes the sentence "the password ...".
    pub fn parse(text: &str) -> Result<Self, VerifierError> {
        if text.is_empty() {
            Ok(Self::None)
        } else if let Some(digits) = text.strip_prefix("md5") {
            Md5Hash::from_digits(digits).map(Self::Md5)
        } else if let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") {
            ScramVerifier::parse(rest).map(Self::Scram)
        } else {
            Err(VerifierError::UnknownKind)
        }
    }
}

impl Md5Hash {
    /// The hash of these 16 bytes.
    pub(crate) fn new(digest: [u8; 16]) -> Self {
        Md5Hash(digest)
    }

    /// Upper-case digits mean the same hash and are taken.
    fn from_digits(digits: &str) -> Result<Self, VerifierError> {
        let digits = digits.as_bytes();
        if digits.len() != 32 {
            return Err(VerifierError::Md5Digits);
        }
        let mut hash = Md5Hash([0; 16]);
        for (byte, pair) in hash.0.iter_mut().zip(digits.chunks_exact(2)) {
            for &digit in pair {
                let nibble = (digit as char).to_digit(16);
                let nibble = nibble.ok_or(VerifierError::Md5Digits)?;
                *byte = (*byte << 4) | nibble as u8;
            }
        }
        Ok(hash)
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

    /// Reads what follows `SCRAM-SHA-256$`.
    fn parse(rest: &str) -> Result<Self, VerifierError> {
        let shape = VerifierError::ScramShape;
        let (parameters, keys) = rest.split_once('$').ok_or(shape)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(shape)?;
        let (stored, server) = keys.split_once(':').ok_or(shape)?;
        if server.contains([':', '$']) {
            return Err(shape);
        }
        let iterations = iteration_count(iterations).ok_or(VerifierError::ScramIterations)?;
        let salt = salt_bytes(salt).ok_or(VerifierError::ScramSalt)?;
        let key = |text| crypto::base64_digest(text).ok_or(VerifierError::ScramKey);
        Ok(ScramVerifier {
            iterations,
            salt,
            stored_key: StoredKey::new(key(stored)?),
            server_key: ServerKey::new(key(server)?),
        })
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

/// An iteration count: decimal digits only, within bounds.
pub(crate) fn iteration_count(text: &str) -> Option<u32> {
    // `parse` alone would take a leading plus sign.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count = text.parse().ok()?;
    (1..=MAX_ITERATIONS).contains(&count).then_some(count)
}

/// A salt: base64, not empty, within bounds.
pub(crate) fn salt_bytes(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_SALT_LENGTH.div_ceil(3) * 4 {
        return None;
    }
    let salt = crypto::base64_decode(text)?;
    (1..=MAX_SALT_LENGTH).contains(&salt.len()).then_some(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn the_three_kinds_are_told_apart() {
        assert_eq!(Verifier::parse(""), Ok(Verifier::None));
        assert!(matches!(
            Verifier::parse("md5a3556571e93b0d20722ba62be61e8c2d"),
            Ok(Verifier::Md5(_))
        ));
        let Ok(Verifier::Scram(scram)) = Verifier::parse(SCRAM) else {
            panic!("a verifier of PostgreSQL is not read");
        };
        assert_eq!(scram.iterations(), 4096);
        assert_eq!(scram.salt().len(), 16);
    }

    #[test]
    fn md5_digits_may_be_upper_case() {
        assert_eq!(
            Verifier::parse("md5A3556571E93B0D20722BA62BE61E8C2D"),
            Verifier::parse("md5a3556571e93b0d20722ba62be61e8c2d")
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("pencil", VerifierError::UnknownKind),
            ("SCRAM-SHA-1$1:a$b:c", VerifierError::UnknownKind),
            ("md5", VerifierError::Md5Digits),
            (
                "md5a3556571e93b0d20722ba62be61e8c2",
                VerifierError::Md5Digits,
            ),
            (
                "md5a3556571e93b0d20722ba62be61e8c2g",
                VerifierError::Md5Digits,
            ),
            (
                "md5a3556571e93b0d20722ba62be61e8c2d ",
                VerifierError::Md5Digits,
            ),
            ("SCRAM-SHA-256$", VerifierError::ScramShape),
            ("SCRAM-SHA-256$4096:QQ==$QQ==", VerifierError::ScramShape),
        ];
        for (text, error) in cases {
            assert_eq!(Verifier::parse(text), Err(error), "{text}");
        }
        for count in ["0", "", "-1", "+1", "2147483648", "99999999999999"] {
            let text = SCRAM.replace("4096", count);
            assert_eq!(
                Verifier::parse(&text),
                Err(VerifierError::ScramIterations),
                "{count}"
            );
        }
        let text = SCRAM.replace("W22ZaJ0SNY7soEsUEjb6gQ==", "");
        assert_eq!(Verifier::parse(&text), Err(VerifierError::ScramSalt));
        let text = SCRAM.replace("W22ZaJ0SNY7soEsUEjb6gQ==", &"AAAA".repeat(86));
        assert_eq!(Verifier::parse(&text), Err(VerifierError::ScramSalt));
        let text = SCRAM.replace("WG5d8oPm", "");
        assert_eq!(Verifier::parse(&text), Err(VerifierError::ScramKey));
        let text = format!("{SCRAM}:x");
        assert_eq!(Verifier::parse(&text), Err(VerifierError::ScramShape));
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        for text in [SCRAM, "md5a3556571e93b0d20722ba62be61e8c2d"] {
            let shown = format!("{:?}", Verifier::parse(text).unwrap());
            assert!(shown.ends_with("(hidden))"), "{shown}");
        }
    }

    #[test]
    fn a_client_key_of_another_password_gives_no_pass_through() {
        let Ok(Verifier::Scram(scram)) = Verifier::parse(SCRAM) else {
            panic!("a verifier of PostgreSQL is not read");
        };
        assert!(scram.pass_through(ClientKey::new([0; 32])).is_none());
    }

    #[test]
    fn mutilated_verifiers_are_errors_and_no_panic() {
        for cut in 0..SCRAM.len() {
            assert!(Verifier::parse(&SCRAM[..cut]).is_err() || cut == 0);
            for byte in ["\0", "$", ":", "=", "é", "A"] {
                let _ = Verifier::parse(&format!("{}{byte}{}", &SCRAM[..cut], &SCRAM[cut + 1..]));
            }
        }
    }
}
