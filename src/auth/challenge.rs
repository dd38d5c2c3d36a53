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
use super::scram::{MockSecret, ServerExchange};
use super::verifier::Verifier;

/// What a client is asked for, and whether it can succeed.
#[derive(Debug)]
pub struct Login {
    /// To be carried out with the client.
    pub challenge: Challenge,
    /// Why no answer will be right, for the log; `None` when one can be.
    pub doom: Option<Doom>,
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

/// Which challenge stands in for a user who does not exist: the one that the
/// users who do are asked, or the difference gives them away. Only a rule that
/// allows MD5 leaves the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandIn {
    /// All users of this database have an MD5 hash.
    Md5,
    /// Any of them has a SCRAM verifier.
    Scram,
}

/// Why a login cannot succeed whatever the client answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doom {
    /// There is no such user.
    UnknownUser,
    /// The user has no password.
    NoPassword,
    /// The user has an MD5 hash and the rule asks for SCRAM.
    Md5UnderScramRule,
}

impl fmt::Display for Doom {
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
/// anything for them to use is for the caller to say.
///
/// # Errors
/// [`CryptoError`] when there is no entropy.
pub fn login(
    verdict: &Verdict,
    user: &str,
    verifier: Option<&Verifier>,
    stand_in: StandIn,
    secret: &MockSecret,
) -> Result<Option<Login>, CryptoError> {
    let allow_md5 = match *verdict {
        Verdict::Reject { .. }
        | Verdict::NoCertificate { .. }
        | Verdict::WrongCertificate { .. }
        | Verdict::NoRule => return Ok(None),
        Verdict::Trust => {
            return Ok(Some(Login {
                challenge: Challenge::Nothing,
                doom: None,
            }));
        }
        Verdict::Password { allow_md5, .. } => allow_md5,
    };
    let doom = match verifier {
        Some(Verifier::Md5(hash)) if allow_md5 => {
            return Ok(Some(Login {
                challenge: Challenge::Md5(Md5Challenge::new(hash)?),
                doom: None,
            }));
        }
        // Every rule that asks for a password takes SCRAM.
        Some(Verifier::Scram(scram)) => {
            return Ok(Some(Login {
                challenge: Challenge::Scram(Box::new(ServerExchange::new(scram)?)),
                doom: None,
            }));
        }
        Some(Verifier::Md5(_)) => Doom::Md5UnderScramRule,
        Some(Verifier::None) => Doom::NoPassword,
        None => Doom::UnknownUser,
    };
    let challenge = if allow_md5 && stand_in == StandIn::Md5 {
        Challenge::Md5(Md5Challenge::mock(user, secret)?)
    } else {
        Challenge::Scram(Box::new(ServerExchange::mock(user, secret)?))
    };
    Ok(Some(Login {
        challenge,
        doom: Some(doom),
    }))
}

#[cfg(test)]
mod tests {
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
        stand_in: StandIn,
    ) -> Option<(&'static str, Option<Doom>)> {
        let verifier = verifier.map(Verifier::of);
        let secret = MockSecret::random().unwrap();
        let login = login(verdict, "joe", verifier.as_ref(), stand_in, &secret).unwrap()?;
        let kind = match login.challenge {
            Challenge::Nothing => "nothing",
            Challenge::Md5(_) => "md5",
            Challenge::Scram(_) => "scram",
        };
        Some((kind, login.doom))
    }

    #[test]
    fn every_rule_meets_every_verifier() {
        let md5 = Some("md5a3556571e93b0d20722ba62be61e8c2d");
        let scram = postgres_protocol::password::scram_sha_256(b"pencil");
        let scram = Some(scram.as_str());
        let table = [
            (Verdict::Trust, None, Some(("nothing", None))),
            (Verdict::Trust, Some(""), Some(("nothing", None))),
            (Verdict::NoRule, md5, None),
            (Verdict::Reject { line: 1 }, scram, None),
            (MD5, md5, Some(("md5", None))),
            (MD5, scram, Some(("scram", None))),
            (MD5, Some(""), Some(("scram", Some(Doom::NoPassword)))),
            (MD5, None, Some(("scram", Some(Doom::UnknownUser)))),
            (SCRAM, md5, Some(("scram", Some(Doom::Md5UnderScramRule)))),
            (SCRAM, scram, Some(("scram", None))),
            (SCRAM, Some(""), Some(("scram", Some(Doom::NoPassword)))),
            (SCRAM, None, Some(("scram", Some(Doom::UnknownUser)))),
        ];
        for (verdict, verifier, expected) in table {
            let got = asked(&verdict, verifier, StandIn::Scram);
            assert_eq!(got, expected, "{verdict:?} {verifier:?}");
        }
    }

    #[test]
    fn where_all_have_md5_hashes_a_stranger_is_asked_for_md5_too() {
        let stranger = asked(&MD5, None, StandIn::Md5);
        assert_eq!(stranger, Some(("md5", Some(Doom::UnknownUser))));
        let stranger = asked(&SCRAM, None, StandIn::Md5);
        assert_eq!(stranger, Some(("scram", Some(Doom::UnknownUser))));
    }
}
