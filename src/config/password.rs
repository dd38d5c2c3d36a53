//! The `password` of a user as PostgreSQL stores it, in the spelling of `pg_authid.rolpassword` (PostgreSQL
//! manual, "pg_authid"): the one place where that is read.
//!
//! Proves nobody's identity: that is `auth`'s. Invariant: a value is complete and within its bounds, and neither
//! it nor a reason for refusing one shows any part of the text.

use std::fmt;
use std::path::Path;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::token_key::TokenKey;
use crate::wire::base64;

/// The longest salt that is accepted, in bytes. PostgreSQL writes 16.
pub const MAX_SALT_LENGTH: usize = 256;

/// The largest number of iterations that is accepted; also what PostgreSQL's `scram_iterations` ends at.
pub const MAX_ITERATIONS: u32 = i32::MAX as u32;

/// What precedes the path of a public key.
const TOKEN_KEY: &str = "jwt-pkey-fpath:";

/// A user's password in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Password {
    /// No password: the user can log in only where HBA says `trust`.
    #[default]
    Empty,
    /// `md5` and 32 hexadecimal digits.
    Md5(Md5),
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    Scram(Scram),
    /// `jwt-pkey-fpath:/path`: the password is a token that the owner of this key has signed.
    Jwt(TokenKey),
}

/// What the digits behind `md5` say.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Md5(pub [u8; 16]);

/// The parts of a SCRAM-SHA-256 verifier (RFC 5803, in PostgreSQL's spelling).
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Scram {
    /// How often the password was hashed, from 1 to [`MAX_ITERATIONS`].
    pub iterations: u32,
    /// From 1 to [`MAX_SALT_LENGTH`] bytes.
    pub salt: Vec<u8>,
    /// The StoredKey.
    pub stored_key: [u8; 32],
    /// The ServerKey.
    pub server_key: [u8; 32],
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

impl Password {
    /// The password of a user in the configuration. A key is read from its file.
    ///
    /// # Errors
    /// As [`Password::parse`].
    pub(super) fn configured(text: &str) -> Result<Self, String> {
        match text.strip_prefix(TOKEN_KEY) {
            Some(path) => TokenKey::load(Path::new(path)).map(Self::Jwt),
            None => Self::parse(text),
        }
    }

    /// Takes the text if it has one of the forms. Opens no file.
    ///
    /// # Errors
    /// The reason, without any part of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Ok(Self::Empty)
        } else if let Some(digits) = text.strip_prefix("md5") {
            Md5::parse(digits).map(Self::Md5).ok_or_else(|| {
                format!("\"md5\" must be followed by 32 lower-case hexadecimal digits; {HOW}")
            })
        } else if let Some(verifier) = text.strip_prefix("SCRAM-SHA-256$") {
            Scram::parse(verifier).map(Self::Scram).map_err(|what| {
                format!(
                    "{what}; the form is \
                     SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>; {HOW}"
                )
            })
        } else if text.starts_with(TOKEN_KEY) {
            Err("a key for tokens is named only in the password of a user in this file".into())
        } else {
            Err(format!("plain-text passwords are not supported; {HOW}"))
        }
    }
}

const HOW: &str = "copy the stored verifier from PostgreSQL: \
                   SELECT rolpassword FROM pg_authid WHERE rolname = '<user>'";

impl Md5 {
    fn parse(digits: &str) -> Option<Self> {
        let digits = digits.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut hash = Md5([0; 16]);
        for (byte, pair) in hash.0.iter_mut().zip(digits.chunks_exact(2)) {
            for &digit in pair {
                // PostgreSQL writes lower-case digits, and takes anything else for a plain password.
                let nibble = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                *byte = (*byte << 4) | nibble;
            }
        }
        Some(hash)
    }
}

impl Scram {
    /// Reads what follows `SCRAM-SHA-256$`.
    fn parse(verifier: &str) -> Result<Self, &'static str> {
        let incomplete = "not a complete verifier";
        let (parameters, keys) = verifier.split_once('$').ok_or(incomplete)?;
        let (iterations, its_salt) = parameters.split_once(':').ok_or(incomplete)?;
        let (stored, server) = keys.split_once(':').ok_or(incomplete)?;
        let key = |text| base64::decode_exactly(text).ok_or("a key is not base64 of 32 bytes");
        Ok(Scram {
            iterations: iteration_count(iterations)
                .ok_or("the iteration count is not a number from 1 to 2147483647")?,
            salt: salt(its_salt).ok_or("the salt is not base64 of 1 to 256 bytes")?,
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }
}

/// An iteration count: decimal digits only, within bounds.
pub fn iteration_count(text: &str) -> Option<u32> {
    // `parse` alone would take a leading plus sign.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count = text.parse().ok()?;
    (1..=MAX_ITERATIONS).contains(&count).then_some(count)
}

/// A salt: base64, not empty, within bounds.
pub fn salt(text: &str) -> Option<Vec<u8>> {
    if text.len() > MAX_SALT_LENGTH.div_ceil(3) * 4 {
        return None;
    }
    let salt = base64::decode(text)?;
    (1..=MAX_SALT_LENGTH).contains(&salt.len()).then_some(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn the_forms_postgresql_stores_are_taken() {
        assert_eq!(Password::parse(""), Ok(Password::Empty));
        let md5 = Password::parse("md5d41d8cd98f00b204e9800998ecf8427e").unwrap();
        assert!(matches!(md5, Password::Md5(Md5([0xd4, 0x1d, .., 0x7e]))));
        let Ok(Password::Scram(scram)) = Password::parse(SCRAM) else {
            panic!("a verifier of PostgreSQL is not read");
        };
        assert_eq!((scram.iterations, scram.salt.len()), (4096, 16));
        let jwt = Password::parse("jwt-pkey-fpath:/etc/key.pem");
        assert!(jwt.is_err(), "what a query finds opens no file");
        let missing = Password::configured("jwt-pkey-fpath:/no/key.pem").unwrap_err();
        assert!(missing.contains("/no/key.pem"), "{missing}");
    }

    #[test]
    fn anything_else_is_refused_with_advice_and_without_quoting_it() {
        let counts = ["0", "", "-1", "+1", "2147483648", "99999999999999"];
        let mut broken: Vec<String> = counts.map(|count| SCRAM.replace("4096", count)).into();
        for salt in ["", "W22ZaJ0SNY7soEsUEjb6gR==", &"AAAA".repeat(86)] {
            broken.push(SCRAM.replace("W22ZaJ0SNY7soEsUEjb6gQ==", salt));
        }
        broken.push(SCRAM.replace("WG5d8oPm", ""));
        broken.push(format!("{SCRAM}:W22Z"));
        broken.push(format!("{SCRAM}$W22Z"));
        broken.push(SCRAM[..SCRAM.len() - 4].to_owned());
        let others = [
            "hunter2",
            "SCRAM-SHA-1$1:W22Z$W22Z:W22Z",
            "SCRAM-SHA-256$",
            "md5",
            "md5hunter2",
            "md5D41D8CD98F00B204E9800998ECF8427E",
            "md5d41d8cd98f00b204e9800998ecf8427g",
            "md5d41d8cd98f00b204e9800998ecf8427e ",
        ];
        for text in others
            .into_iter()
            .chain(broken.iter().map(|text| &text[..]))
        {
            let reason = Password::parse(text).unwrap_err();
            assert!(
                reason.contains("SELECT rolpassword FROM pg_authid"),
                "{reason}"
            );
            assert!(
                !reason.contains("hunter2") && !reason.contains("W22Z"),
                "{reason}"
            );
        }
    }

    #[test]
    fn mutilated_verifiers_are_errors_and_no_panic() {
        for cut in 1..SCRAM.len() {
            assert!(Password::parse(&SCRAM[..cut]).is_err());
            for byte in ["\0", "$", ":", "=", "é", "A"] {
                let _ = Password::parse(&format!("{}{byte}{}", &SCRAM[..cut], &SCRAM[cut + 1..]));
            }
        }
    }

    #[test]
    fn debug_output_hides_the_verifier() {
        let password = Password::parse(SCRAM).unwrap();
        assert_eq!(format!("{password:?}"), "Scram(hidden)");
    }
}
