//! Which rule decides about a client (PostgreSQL manual, "The pg_hba.conf
//! File"): strictly the first that matches transport, database, user and
//! address. Rules after it are not looked at, whatever its method.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | the verdict of the rule that decides |
//! | `matching` | whether a rule is about a client |
//! | `refusal` | what a client reads that a rule keeps out, and the log |
//!
//! The rules are read in [`config`](crate::config); here they are asked.
//! Invariant: where there are rules, no rule means no entry. If it is not known whether a
//! rule matches, there is no entry either.

mod matching;
mod refusal;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use super::certificate::PeerCertificate;
use crate::config::{
    CertificateDemand, CertificateName, DatabaseMatch, Hba, LinePlace, Method, Rule, UserMatch,
};
use matching::Asked;
pub use refusal::{Refused, refusal};

/// Says whether the client's user is a member of a role. Asked only if a rule needs it.
pub type IsMember<'a> = &'a dyn Fn(&[u8]) -> Result<bool, String>;

/// The client a verdict is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Which kind of socket it came through.
    pub transport: Transport,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The certificate it has shown, whose signature was verified.
    pub certificate: Option<&'a PeerCertificate>,
    /// Where it came from; `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// The number of the operating system's user that has connected through a Unix socket.
    pub system_user: Option<u32>,
    /// The database it asks for.
    pub database: &'a str,
    /// The user it says it is.
    pub user: &'a str,
}

/// The kinds of sockets a client comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A Unix-domain socket.
    Unix,
    /// TCP, with or without TLS.
    Tcp,
}

/// What the rules say about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// No proof is asked for: by the rule, or because its certificate or its socket was proof.
    Trust,
    /// A password is asked for, by one of these.
    Password {
        /// An MD5 verifier may be used.
        allow_md5: bool,
        /// A SCRAM verifier may be used.
        allow_scram: bool,
    },
    /// The client is refused.
    No(Reason),
}

/// Why a client is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// No rule is about it.
    NoRule,
    /// This rule refuses it.
    Reject(LinePlace),
    /// This rule has a method that is not built in.
    NotBuiltIn(LinePlace, &'static str),
    /// This rule demands a certificate, and it has shown none.
    NoCertificate(LinePlace),
    /// This rule demands a certificate that names the user, and that of the client does not. Why not, in
    /// PostgreSQL's words for its log.
    WrongCertificate(LinePlace, String),
    /// This rule lets in the system's users, and not this one as this user. Why not, in PostgreSQL's words for its
    /// log.
    WrongPeer(LinePlace, String),
    /// Nobody can say whether this rule matches.
    Unknown(LinePlace, String),
}

/// A password by whatever method its verifier allows.
const ANY_PASSWORD: Verdict = Verdict::Password {
    allow_md5: true,
    allow_scram: true,
};

/// What is said about `client`: by the method of the first rule that matches,
/// by the list of networks, or, where there is neither, that everybody may try.
pub fn verdict(hba: &Hba, client: &Client<'_>, is_member: IsMember<'_>) -> Verdict {
    let rules = match hba {
        Hba::Anyone => return ANY_PASSWORD,
        Hba::Networks(networks) => {
            let allowed = client
                .address
                .is_none_or(|address| networks.iter().any(|network| network.contains(address)));
            return match allowed {
                true => ANY_PASSWORD,
                false => Verdict::No(Reason::NoRule),
            };
        }
        Hba::Rules(rules) => rules,
    };
    let asked = Asked::new(client, is_member);
    for rule in rules {
        match asked.matches(rule) {
            Ok(true) => return by_rule(rule, &asked),
            Ok(false) => {}
            Err(why) => return Verdict::No(Reason::Unknown(rule.at.clone(), why)),
        }
    }
    Verdict::No(Reason::NoRule)
}

/// What is said about a client that asks for the console, which has these names as a database.
///
/// Rules that were written for applications neither open nor shut it. The rules that name the console decide
/// about the users that they name: if none of them matches, the client is kept out. For a user that none of
/// them names the password of the console decides. A rule with `all` as its database counts only where it
/// keeps the client out: by `reject`, or by a certificate that it asks for besides a password. The console's users
/// are no roles of PostgreSQL, so they are members of none.
pub fn console_verdict(hba: &Hba, client: &Client<'_>, names: &[&str]) -> Verdict {
    let asked = Asked::new(client, &|_| Ok(false));
    let Hba::Rules(rules) = hba else {
        return verdict(hba, client, &|_| Ok(false));
    };
    let is_name = |name: &[u8]| names.iter().any(|one| one.as_bytes() == name);
    let names_console = |rule: &Rule| {
        let mut databases = rule.databases.iter();
        databases.any(|one| matches!(one, DatabaseMatch::Name(name) if is_name(name)))
    };
    // An error is possible only if this machine's own addresses are not known.
    let is_about = |outcome: Result<bool, String>, rule: &Rule| {
        outcome.map_err(|why| Verdict::No(Reason::Unknown(rule.at.clone(), why)))
    };
    let mut passed_by_all = false;
    let mut named = false;
    for rule in rules {
        let outcome = match names_console(rule) {
            true => {
                let names_user = asked.names_user(rule) == Ok(true);
                named |= names_user;
                is_about(
                    asked.matches_place(rule).map(|place| place && names_user),
                    rule,
                )
            }
            false if passed_by_all => Ok(false),
            false => is_about(asked.matches(rule), rule),
        };
        match outcome {
            Err(verdict) => return verdict,
            Ok(false) => continue,
            Ok(true) if names_console(rule) => return by_rule(rule, &asked),
            Ok(true) => passed_by_all = true,
        }
        let besides = !matches!(rule.method, Method::Cert | Method::Trust | Method::Peer);
        match by_rule(rule, &asked) {
            Verdict::No(reason @ (Reason::NoCertificate(_) | Reason::WrongCertificate(..)))
                if besides =>
            {
                return Verdict::No(reason);
            }
            Verdict::No(reason @ Reason::Reject(_)) => return Verdict::No(reason),
            _ => {}
        }
    }
    match named {
        true => Verdict::No(Reason::NoRule),
        false => ANY_PASSWORD,
    }
}

fn by_rule(rule: &Rule, asked: &Asked<'_>) -> Verdict {
    let at = || rule.at.clone();
    let refused = match rule.method {
        Method::Reject => Some(Reason::Reject(at())),
        Method::NotBuiltIn(method) => Some(Reason::NotBuiltIn(at(), method)),
        Method::Peer => wrong_peer(rule, asked),
        _ => wrong_certificate(rule, asked),
    };
    match (refused, rule.method) {
        (Some(reason), _) => Verdict::No(reason),
        (None, Method::Md5 | Method::Password) => ANY_PASSWORD,
        (None, Method::ScramSha256) => Verdict::Password {
            allow_md5: false,
            allow_scram: true,
        },
        (None, _) => Verdict::Trust,
    }
}

/// Why the certificate of the client is not enough for `rule`, if it is not
/// (PostgreSQL's `auth.c`, `CheckCertAuth`).
fn wrong_certificate(rule: &Rule, asked: &Asked<'_>) -> Option<Reason> {
    let at = rule.at.clone();
    let (by, certificate) = match (rule.certificate, asked.client.certificate) {
        (CertificateDemand::No, _) | (CertificateDemand::Signed, Some(_)) => return None,
        (_, None) => return Some(Reason::NoCertificate(at)),
        (CertificateDemand::Named(by), Some(certificate)) => (by, certificate),
    };
    let name = match by {
        CertificateName::CommonName => certificate.common_name.as_deref(),
        CertificateName::DistinguishedName => certificate.distinguished_name.as_deref(),
    };
    match name {
        None => {
            let why = "client certificate contains no user name".into();
            Some(Reason::WrongCertificate(at, why))
        }
        Some(name) => wrong_name(rule, asked, name, Reason::WrongCertificate),
    }
}

/// Why the operating system's user at the other end may not log in as this user, if it may not.
fn wrong_peer(rule: &Rule, asked: &Asked<'_>) -> Option<Reason> {
    let at = || rule.at.clone();
    let Some(number) = asked.client.system_user else {
        let why = "the system does not say who is at the other end of the socket".into();
        return Some(Reason::WrongPeer(at(), why));
    };
    match nix::unistd::User::from_uid(number.into()) {
        Ok(Some(user)) => wrong_name(rule, asked, &user.name, Reason::WrongPeer),
        Ok(None) => {
            let why = format!("could not look up local user ID {number}: user does not exist");
            Some(Reason::WrongPeer(at(), why))
        }
        Err(error) => {
            let why = format!("could not look up local user ID {number}: {error}");
            Some(Reason::WrongPeer(at(), why))
        }
    }
}

/// Why somebody of this name may not log in as the client's user, if so (PostgreSQL's `check_usermap`).
fn wrong_name(
    rule: &Rule,
    asked: &Asked<'_>,
    name: &str,
    wrong: fn(LinePlace, String) -> Reason,
) -> Option<Reason> {
    let user = asked.client.user;
    let at = rule.at.clone();
    let Some(map) = &rule.map else {
        let why = format!(
            "provided user name ({}) and authenticated user name ({}) do not match",
            user.escape_debug(),
            name.escape_debug()
        );
        return (name != user).then(|| wrong(at, why));
    };
    let mut is_user = |entry: &UserMatch| asked.is_user(entry);
    match map.allows(name.as_bytes(), user.as_bytes(), &mut is_user) {
        Ok(true) => None,
        Ok(false) => {
            let why = format!(
                "no match in usermap \"{}\" for user \"{}\" authenticated as \"{}\"",
                map.name(),
                user.escape_debug(),
                name.escape_debug()
            );
            Some(wrong(at, why))
        }
        Err(why) => Some(Reason::Unknown(at, why)),
    }
}
