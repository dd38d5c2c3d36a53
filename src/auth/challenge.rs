//! Rule and verifier together: what a client is asked for.
//!
//! It decides as PostgreSQL does (`auth.c`, `CheckPWChallengeAuth`) and starts
//! the exchange; carrying it out is the session's. Invariant: a user who does
//! not exist, has no password, or has one of the wrong kind is asked all the
//! same, and no answer is right.

use std::fmt;

use super::crypto::CryptoError;
use super::hba::Verdict;
use super::md5::Md5Challenge;
use super::scram::{MOCK_ITERATIONS, MOCK_SALT_LENGTH, MockSecret, ServerExchange};
use super::verifier::{Md5Hash, Verifier};
use crate::config::Password;

/// What a client is asked for, and whether it can succeed.
#[derive(Debug)]
pub struct Login {
    /// To be carried out with the client.
    pub challenge: Challenge,
    /// Why no answer will be right, for the log; `None` when one can be.
    pub will_fail: Option<LoginFailure>,
}

/// What a client is asked for.
#[derive(Debug)]
pub enum Challenge {
    /// Nothing: AuthenticationOk at once.
    Nothing,
    /// AuthenticationMD5Password.
    Md5(Md5Challenge),
    /// AuthenticationSASL with SCRAM-SHA-256.
    Scram(Box<ServerExchange>),
}

/// What of a stored password a client can see before it proves that it knows it. A user who does not exist is
/// asked as if it had the one of another user: which, only the mock secret says. So strangers have MD5 hashes,
/// iteration counts and lengths of salts as often as users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An MD5 hash.
    Md5,
    /// A SCRAM verifier.
    Scram {
        /// How often the password was hashed.
        iterations: u32,
        /// Bytes of its salt.
        salt: usize,
    },
}

impl Kind {
    /// That of the verifier that is made of a password in plain text.
    pub const OF_PLAIN_TEXT: Kind = Kind::Scram {
        iterations: MOCK_ITERATIONS,
        salt: MOCK_SALT_LENGTH,
    };

    /// That of what is stored; `None` if nobody can log in with it.
    pub fn of(verifier: &Verifier) -> Option<Kind> {
        match verifier {
            Verifier::None => None,
            Verifier::Md5(_) => Some(Kind::Md5),
            Verifier::Scram(scram) => Some(Kind::Scram {
                iterations: scram.iterations(),
                salt: scram.salt().len(),
            }),
        }
    }

    /// That of a password in the configuration.
    pub fn of_password(password: &Password) -> Option<Kind> {
        match password {
            Password::Empty | Password::Jwt(_) => None,
            Password::Md5(_) => Some(Kind::Md5),
            Password::Scram(scram) => Some(Kind::Scram {
                iterations: scram.iterations,
                salt: scram.salt.len(),
            }),
        }
    }

    /// The one by which `user` is asked, of all that there are.
    fn stand_in(
        kinds: impl Iterator<Item = Kind> + Clone,
        allow_md5: bool,
        user: &str,
        secret: &MockSecret,
    ) -> Result<Kind, CryptoError> {
        let able = kinds.filter(|kind| allow_md5 || *kind != Kind::Md5);
        let number = able.clone().count().max(1);
        let lot = u64::from_be_bytes(secret.bytes("stand-in", user)?);
        let lot = usize::try_from(lot % number as u64).unwrap_or(0);
        Ok(able.clone().nth(lot).unwrap_or(Kind::Scram {
            iterations: MOCK_ITERATIONS,
            salt: MOCK_SALT_LENGTH,
        }))
    }
}

/// Why a login cannot succeed whatever the client answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginFailure {
    /// There is no such user.
    UnknownUser,
    /// The user has no password.
    NoPassword,
    /// The user has an MD5 hash and the rule asks for SCRAM.
    Md5UnderScramRule,
}

impl fmt::Display for LoginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownUser => "there is no such user",
            Self::NoPassword => "the user has no password",
            Self::Md5UnderScramRule => {
                "the user's password is an MD5 hash and the pg_hba rule asks for scram-sha-256"
            }
        })
    }
}

/// What a client is asked for under `verdict`; `verifier` is `None` for a user
/// who does not exist. `None` when the verdict lets nobody in: then
/// [`hba::refusal`](super::hba::refusal) is the answer.
///
/// A `trust` verdict holds for unknown users as well: whether there is
/// anything for them to use is for the caller to say. `kinds` are those of all
/// users. The work is the same whoever the user is: what stands in for a
/// verifier is made for everybody.
///
/// # Errors
/// [`CryptoError`] when there is no entropy.
pub fn login(
    verdict: &Verdict,
    user: &str,
    verifier: Option<&Verifier>,
    kinds: impl Iterator<Item = Kind> + Clone,
    secret: &MockSecret,
) -> Result<Option<Login>, CryptoError> {
    let allow_md5 = match *verdict {
        Verdict::No(_) => return Ok(None),
        Verdict::Trust => {
            return Ok(Some(Login {
                challenge: Challenge::Nothing,
                will_fail: None,
            }));
        }
        Verdict::Password { allow_md5, .. } => allow_md5,
    };
    // Both kinds, for a user with one may be asked as slowly as a stranger with the other.
    let kind = Kind::stand_in(kinds, allow_md5, user, secret)?;
    let (iterations, salt) = match kind {
        Kind::Md5 => (MOCK_ITERATIONS, MOCK_SALT_LENGTH),
        Kind::Scram { iterations, salt } => (iterations, salt),
    };
    let md5 = Verifier::Md5(Md5Hash::mock(user, secret)?);
    let scram = Verifier::Scram(secret.verifier(user, iterations, salt)?);
    let stand_in = if kind == Kind::Md5 { md5 } else { scram };
    let (asked, will_fail) = match verifier {
        Some(own @ Verifier::Md5(_)) if allow_md5 => (own, None),
        // Every rule that asks for a password takes SCRAM.
        Some(own @ Verifier::Scram(_)) => (own, None),
        Some(Verifier::Md5(_)) => (&stand_in, Some(LoginFailure::Md5UnderScramRule)),
        Some(Verifier::None) => (&stand_in, Some(LoginFailure::NoPassword)),
        None => (&stand_in, Some(LoginFailure::UnknownUser)),
    };
    let doomed = will_fail.is_some();
    let challenge = match asked {
        Verifier::Md5(hash) => Challenge::Md5(Md5Challenge::new(hash, doomed)?),
        Verifier::Scram(scram) => Challenge::Scram(Box::new(ServerExchange::new(scram, doomed)?)),
        Verifier::None => return Ok(None),
    };
    Ok(Some(Login {
        challenge,
        will_fail,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::hba::Reason;
    use super::*;

    const MD5: Verdict = Verdict::Password {
        allow_md5: true,
        allow_scram: true,
    };
    const SCRAM: Verdict = Verdict::Password {
        allow_md5: false,
        allow_scram: true,
    };

    /// The kind of challenge, and whether and why it is doomed.
    fn asked(
        verdict: &Verdict,
        verifier: Option<&str>,
        kinds: &[Kind],
    ) -> Option<(&'static str, Option<LoginFailure>)> {
        let verifier = verifier.map(Verifier::of);
        let secret = MockSecret::random().unwrap();
        let kinds = kinds.iter().copied();
        let login = login(verdict, "joe", verifier.as_ref(), kinds, &secret).unwrap()?;
        let kind = match login.challenge {
            Challenge::Nothing => "nothing",
            Challenge::Md5(_) => "md5",
            Challenge::Scram(_) => "scram",
        };
        Some((kind, login.will_fail))
    }

    #[test]
    fn every_rule_meets_every_verifier() {
        let md5 = Some("md5a3556571e93b0d20722ba62be61e8c2d");
        let scram = postgres_protocol::password::scram_sha_256(b"pencil");
        let scram = Some(scram.as_str());
        let table = [
            (Verdict::Trust, None, Some(("nothing", None))),
            (Verdict::Trust, Some(""), Some(("nothing", None))),
            (Verdict::No(Reason::NoRule), md5, None),
            (MD5, md5, Some(("md5", None))),
            (MD5, scram, Some(("scram", None))),
            (
                MD5,
                Some(""),
                Some(("scram", Some(LoginFailure::NoPassword))),
            ),
            (MD5, None, Some(("scram", Some(LoginFailure::UnknownUser)))),
            (
                SCRAM,
                md5,
                Some(("scram", Some(LoginFailure::Md5UnderScramRule))),
            ),
            (SCRAM, scram, Some(("scram", None))),
            (
                SCRAM,
                Some(""),
                Some(("scram", Some(LoginFailure::NoPassword))),
            ),
            (
                SCRAM,
                None,
                Some(("scram", Some(LoginFailure::UnknownUser))),
            ),
        ];
        for (verdict, verifier, expected) in table {
            let got = asked(&verdict, verifier, &[]);
            assert_eq!(got, expected, "{verdict:?} {verifier:?}");
        }
    }

    #[test]
    fn where_all_have_md5_hashes_a_stranger_is_asked_for_md5_too() {
        let stranger = asked(&MD5, None, &[Kind::Md5]);
        assert_eq!(stranger, Some(("md5", Some(LoginFailure::UnknownUser))));
        let stranger = asked(&SCRAM, None, &[Kind::Md5]);
        assert_eq!(stranger, Some(("scram", Some(LoginFailure::UnknownUser))));
    }

    #[test]
    fn strangers_are_asked_as_often_as_users_in_every_way() {
        let secret = MockSecret::random().unwrap();
        let scram = |iterations, salt| Kind::Scram { iterations, salt };
        let kinds = [
            Kind::Md5,
            scram(4096, 16),
            scram(4096, 16),
            scram(99_999, 40),
        ];
        let mut seen = [0; 4];
        for n in 0..1000 {
            let user = format!("stranger {n}");
            let ask = || login(&MD5, &user, None, kinds.iter().copied(), &secret);
            let place = match (
                ask().unwrap().unwrap().challenge,
                ask().unwrap().unwrap().challenge,
            ) {
                (Challenge::Md5(_), Challenge::Md5(_)) => 0,
                (Challenge::Scram(one), Challenge::Scram(other)) => {
                    let (iterations, salt) = one.parameters();
                    assert_eq!((iterations, salt), other.parameters(), "always the same");
                    match (iterations, salt.len()) {
                        (4096, 16) => 1,
                        (99_999, 40) => 3,
                        other => panic!("{other:?}"),
                    }
                }
                _ => panic!("not always the same"),
            };
            seen[place] += 1;
        }
        assert!((150..350).contains(&seen[0]), "{seen:?}");
        assert!((400..600).contains(&seen[1]), "{seen:?}");
        assert!((150..350).contains(&seen[3]), "{seen:?}");
    }
}
