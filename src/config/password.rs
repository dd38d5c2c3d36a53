//! The `password` of a user: which of the known forms it has.
//!
//! Checks the form only, so that a typo is told at `-t` and not at the first
//! login; the verifier itself is read by `auth`. The invariant: a reason for
//! refusing never contains any part of the text.

use super::secret::Secret;

/// The forms a user's password can have in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PasswordKind {
    /// No password: the user can log in only where HBA says `trust`.
    #[default]
    Empty,
    /// `md5` and 32 hexadecimal digits.
    Md5,
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    Scram,
    /// `jwt-pkey-fpath:/path`: not in this version, nobody can log in with it.
    Jwt,
}

/// A user's password as PostgreSQL stores it, its form checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Password {
    kind: PasswordKind,
    secret: Secret,
}

impl Password {
    /// Takes the text if it has one of the forms.
    ///
    /// # Errors
    /// The reason, without any part of the text.
    pub fn check(text: &str) -> Result<Self, String> {
        let kind = if text.is_empty() {
            PasswordKind::Empty
        } else if let Some(hash) = text.strip_prefix("md5") {
            if hash.len() != 32 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!(
                    "\"md5\" must be followed by 32 lower-case hexadecimal digits; {HOW}"
                ));
            }
            PasswordKind::Md5
        } else if let Some(verifier) = text.strip_prefix("SCRAM-SHA-256$") {
            if !is_scram(verifier) {
                return Err(format!(
                    "not a complete verifier; the form is \
                     SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>; {HOW}"
                ));
            }
            PasswordKind::Scram
        } else if text.starts_with("jwt-") {
            PasswordKind::Jwt
        } else {
            return Err(format!("plain-text passwords are not supported; {HOW}"));
        };
        Ok(Password {
            kind,
            secret: Secret::new(text),
        })
    }

    /// Which form it has.
    pub fn kind(&self) -> PasswordKind {
        self.kind
    }

    /// The text itself. Whoever calls this is responsible for where it goes.
    pub fn expose(&self) -> &str {
        self.secret.expose()
    }
}

const HOW: &str = "copy the stored verifier from PostgreSQL: \
                   SELECT rolpassword FROM pg_authid WHERE rolname = '<user>'";

fn is_scram(verifier: &str) -> bool {
    let Some((first, second)) = verifier.split_once('$') else {
        return false;
    };
    let Some((iterations, salt)) = first.split_once(':') else {
        return false;
    };
    let Some((stored, server)) = second.split_once(':') else {
        return false;
    };
    let digits = !iterations.is_empty() && iterations.bytes().all(|b| b.is_ascii_digit());
    digits
        && iterations.parse::<u32>().is_ok_and(|n| n > 0)
        && base64_length(salt).is_some_and(|n| n > 0)
        && base64_length(stored) == Some(32)
        && base64_length(server) == Some(32)
}

/// How many bytes the base64 text stands for, if it is well-formed.
fn base64_length(text: &str) -> Option<usize> {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    (text.len() % 4 == 0 && padding <= 2 && body.bytes().all(alphabet))
        .then(|| text.len() / 4 * 3 - padding)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                         WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn the_forms_postgresql_stores_are_taken() {
        let kind = |text: &str| Password::check(text).map(|p| p.kind());
        assert_eq!(kind(""), Ok(PasswordKind::Empty));
        assert_eq!(
            kind("md5d41d8cd98f00b204e9800998ecf8427e"),
            Ok(PasswordKind::Md5)
        );
        assert_eq!(kind(SCRAM), Ok(PasswordKind::Scram));
        assert_eq!(kind("jwt-pkey-fpath:/etc/key.pem"), Ok(PasswordKind::Jwt));
    }

    #[test]
    fn anything_else_is_refused_with_advice_and_without_quoting_it() {
        let broken = SCRAM.replace("4096", "0");
        let short = &SCRAM[..SCRAM.len() - 4];
        for text in [
            "hunter2",
            "md5hunter2",
            "md5D41D8CD98F00B204E9800998ECF8427E",
            short,
            &broken,
        ] {
            let reason = Password::check(text).unwrap_err();
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
    fn debug_output_hides_the_verifier() {
        let password = Password::check(SCRAM).unwrap();
        assert!(!format!("{password:?}").contains("4096"));
    }
}
